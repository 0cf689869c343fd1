"""A LightningModule that only looks up what it returns, to run callbacks without a model."""

from types import SimpleNamespace

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch.utils.data import DataLoader

TOKENS = 8


class BoringPolicy(LightningModule):
    """Returns the step outputs that the callbacks read, from tables made of a seed.

    A batch is a tensor of row numbers, so the expected figures can be computed from the tables.
    """

    def __init__(self, rows=24, problems=6, samples=4, reference=True, batch_size=2):
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.loss = SimpleNamespace(kl_coef=0.1)
        self.rows, self.problems, self.batch_size = rows, problems, batch_size
        self.logprobs = -2 * torch.rand(rows, TOKENS, generator=random)
        self.old_logprobs = self.logprobs + 0.2 * torch.randn(rows, TOKENS, generator=random)
        self.ref_logprobs = self.logprobs + 0.5 * torch.randn(rows, TOKENS, generator=random)
        self.reference = reference
        self.lengths = torch.randint(1, TOKENS + 1, (rows,), generator=random)
        self.mask = torch.arange(TOKENS) < self.lengths[:, None]
        # Padding may hold anything.
        self.logprobs[~self.mask] = float("nan")
        self.advantages = torch.randn(rows, generator=random)
        self.rewards = torch.rand(rows, generator=random)
        self.eval_rewards = torch.randint(0, 2, (problems, samples), generator=random).float()
        self.eval_format = torch.rand(problems, samples, generator=random)
        self.eval_format[0] = float("nan")
        self.eval_lengths = torch.randint(1, 100, (problems, samples), generator=random)
        self.eval_truncated = self.eval_lengths > 80
        letters = torch.randint(0, 4, (problems, samples), generator=random).tolist()
        self.answers = [["abc"[i] if i < 3 else None for i in row] for row in letters]
        self.extra = {}  # merged into what training_step returns
        self.left_out = ("answers",)  # keys that training_step and validation_step forget

    def training_step(self, batch, batch_idx):
        outputs = {
            "loss": self.weight.square(),
            "logprobs": self.logprobs[batch],
            "old_logprobs": self.old_logprobs[batch],
            "ref_logprobs": self.ref_logprobs[batch] if self.reference else None,
            "mask": self.mask[batch],
            "advantages": self.advantages[batch],
            "rewards": self.rewards[batch],
            "prompts": [f"prompt {row}" for row in batch.tolist()],
            "completions": [f"completion {row}\nsecond line" for row in batch.tolist()],
            "reward_breakdown": {"exact": self.rewards[batch]},
            "truncated": self.lengths[batch] == TOKENS,
            "lengths": self.lengths[batch],
            "group": batch // 4,
        }
        return self._without(outputs | self.extra)

    def validation_step(self, batch, batch_idx):
        rows = batch.tolist()
        samples = self.eval_rewards.shape[1]
        outputs = {
            "rewards": self.eval_rewards[batch],
            "reward_breakdown": {
                "exact": self.eval_rewards[batch],
                "format": self.eval_format[batch],
            },
            "lengths": self.eval_lengths[batch],
            "truncated": self.eval_truncated[batch],
            "prompts": [f"problem {row}" for row in rows],
            "completions": [[f"answer {row}.{i}" for i in range(samples)] for row in rows],
            "sources": ["odd" if row % 2 else "even" for row in rows],
            "answers": [self.answers[row] for row in rows],
        }
        return self._without(outputs)

    test_step = validation_step

    def _without(self, outputs):
        return {key: value for key, value in outputs.items() if key not in self.left_out}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        mine = torch.arange(self.rows)[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(mine, batch_size=self.batch_size)

    def val_dataloader(self):
        # As uneven as can be: all ranks but the first have one problem.
        others = self.trainer.world_size - 1
        shares = torch.arange(self.problems).split([self.problems - others, *[1] * others])
        return DataLoader(shares[self.trainer.global_rank], batch_size=self.batch_size)

    test_dataloader = val_dataloader


class FakeWandbLogger(WandbLogger):
    """Stands in for W&B, which need not be installed."""

    save_dir = None
    experiment = None

    def __init__(self):
        self.tables, self.images = [], []

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        self.tables.append((key, columns, data, step))

    def log_image(self, key, images, step=None, **kwargs):
        self.images.append((key, images, step))

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        pass

    def save(self):
        pass

    def finalize(self, status):
        pass


def make_trainer(folder, *callbacks, **options):
    """Return a quiet CPU trainer for one epoch; options win."""
    quiet = {
        "accelerator": "cpu",
        "default_root_dir": folder,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "use_distributed_sampler": False,
    }
    return Trainer(**{**quiet, "callbacks": list(callbacks), **options})
