"""Run by test_fsdp2.py in an interpreter of its own: two processes train sharded and replicated."""

import logging
import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lgrpo_lightning.fsdp2 import FSDP2Strategy
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import LoRASettings
from lgrpo_lightning.rollout import SamplingSettings
from tests.module.ranks import run_two
from tests.module.runs import HELD_OUT, Recorder, make_data, make_module, make_trainer

STEPS = 4
CASES = {
    "full": {},
    "adapter": {"policy": {"lora": LoRASettings(r=2, dropout=0.1), "gradient_checkpointing": True}},
}
STRATEGIES = {
    "ddp": lambda: "ddp",
    "fsdp2": FSDP2Strategy,
    "folders": lambda: FSDP2Strategy(save_distributed_checkpoint=True),
}
# The strategy that goes on, and the one that wrote the checkpoint.
RESUMED = [("fsdp2", "fsdp2"), ("folders", "folders"), ("ddp", "fsdp2"), ("fsdp2", "ddp")]


def fit(folder, model, strategy, options, ckpt_path=None, precision="32-true"):
    """Train with all that a run has; give weights, lengths of completions, and losses."""
    recorder = Recorder()
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    trainer = make_trainer(
        folder,
        callbacks=[recorder, keep],
        enable_checkpointing=True,
        devices=2,
        strategy=STRATEGIES[strategy](),
        precision=precision,
        max_steps=STEPS,
        accumulate_grad_batches=2,
        gradient_clip_val=0.05,
        val_check_interval=4,
        check_val_every_n_epoch=None,
    )
    sampling = SamplingSettings(max_new_tokens=24, temperature=6.0)
    module = make_module(
        model,
        group_size=4,
        micro_batch_size=4,
        sampler="hf",
        # 2 batches of a rollout; of an evaluation of 2 and 3 prompts one and two
        sampler_batch_size=4,
        sampling=sampling,
        evaluation=sampling,
        eval_completions=2,
        loss=LambdaGRPOLoss(kl_coef=0.3),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01, eps=1e-3),
        **options,
    )
    data = make_data(prompts_per_rollout=2, eval_path=HELD_OUT, eval_prompts_per_batch=3)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    weights = FSDP2Strategy._on_first(trainer.strategy, module.state_dict())
    trained = [outputs["lengths"].tolist() for outputs in recorder.outputs]
    evaluated = [outputs["lengths"].tolist() for outputs in recorder.evaluated]
    return {"weights": weights, "trained": trained, "evaluated": evaluated}


def runs(folder, model):
    """{(case, strategy): what came of it}, also of runs that go on from a checkpoint at step 2."""
    found = {}
    for case, options in CASES.items():
        for strategy in STRATEGIES:
            found[case, strategy] = fit(folder / case / strategy, model, strategy, options)
        for strategy, writer in RESUMED:
            name = f"{strategy} from {writer}"
            checkpoint = folder / case / writer / "step=2.ckpt"
            found[case, name] = fit(folder / case / name, model, strategy, options, checkpoint)
    for precision in ("bf16-mixed", "bf16-true"):
        found["full", precision] = fit(folder / precision, model, "fsdp2", {}, None, precision)
    return found


def rank(folder, model, number):
    """What one process does; Lightning takes the variables for a launcher's."""
    os.environ["LOCAL_RANK"] = str(number)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.save(runs(folder, model), folder / f"rank-{number}.pt")


if __name__ == "__main__":
    run_two(rank, Path(sys.argv[1]), sys.argv[2])
