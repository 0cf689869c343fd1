"""Modules, data, trainers and a recorder for short real runs on tiny models."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lgrpo_lightning.data import PromptGroupDataModule
from lgrpo_lightning.module import LambdaGRPO
from lgrpo_lightning.policy import PolicySettings
from lgrpo_lightning.rollout import SamplingSettings

ROOT = Path(__file__).parents[2]
ADDITION = str(ROOT / "assets" / "tiny-addition")
TOKENS = 5  # of a completion at most
ROWS = [{"prompt": f"Q:{a}+{a + 3}=", "answer": str(2 * a + 3)} for a in range(5, 65, 7)]
HELD_OUT = [{"prompt": f"Q:{a}+1=", "answer": str(a + 1)} for a in range(100, 105)]


def reward(name):
    """The path of a toy reward function."""
    return f"{Path(__file__).with_name('toy_rewards.py')}:{name}"


def make_module(path=ADDITION, policy=None, kind=LambdaGRPO, **options) -> LambdaGRPO:
    """2 completions per prompt, at most 5 tokens each, hot enough to differ; plain SGD."""
    options = {
        "rewards": [reward("token_sum")],
        "group_size": 2,
        "sampling": SamplingSettings(max_new_tokens=TOKENS, temperature=6.0),
        "evaluation": SamplingSettings(max_new_tokens=TOKENS, temperature=0.0),
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.01),
        "seed": 3,
        **options,
    }
    return kind(PolicySettings(path, **(policy or {})), **options)


def make_data(rows=ROWS, **options) -> PromptGroupDataModule:
    """9 prompts, 2 in a rollout: 4 rollouts in an epoch."""
    options = {"prompts_per_rollout": 2, "eval_prompts_per_batch": 3, **options}
    return PromptGroupDataModule(rows, **options)


def make_trainer(folder, **options) -> Trainer:
    """Quiet, on the CPU; writes nothing unless told to."""
    options = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
        **options,
    }
    return Trainer(**options)


class Recorder(Callback):
    """Keeps what steps return, and of every optimizer step the gradient and the rate."""

    def __init__(self):
        self.outputs, self.batches, self.gradients, self.rates = [], [], [], []
        self.evaluated, self.rollouts, self.validated_at = [], [], []
        self.before = {}

    def on_train_start(self, trainer, pl_module):
        self.before = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.outputs.append(outputs)
        self.batches.append(batch)
        if batch.step == 0:
            self.rollouts.append(pl_module._current.rollout)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients.append(gradient(pl_module))
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ):
        self.evaluated.append(outputs)

    def on_validation_start(self, trainer, pl_module):
        self.validated_at.append(trainer.global_step)


def gradient(module: LightningModule) -> torch.Tensor:
    """The gradient of all trained weights in one vector."""
    parts = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    return torch.cat(parts).clone()


def weights(module: LightningModule) -> dict[str, torch.Tensor]:
    """A copy of what a checkpoint would hold."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors are equal to the bit."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
