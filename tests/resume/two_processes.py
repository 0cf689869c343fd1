"""Run by test_two_processes_resume.py in an interpreter of its own: two processes, stopped."""

import contextlib
import io
import logging
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.module.ranks import run_two
from tests.module.runs import make_data, make_module, make_trainer, weights


def run(folder, checkpoint=None):
    """8 optimizer steps, two rollouts of 4 on each process; what they end with and what is said."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("lgrpo_lightning").addHandler(handler)
    module = make_module(micro_batch_size=2, num_iterations=2)
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = make_trainer(
        folder,
        devices=2,
        strategy="ddp",
        max_steps=8,
        enable_checkpointing=True,
        callbacks=[] if checkpoint else [keep],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(module, datamodule=make_data(), ckpt_path=checkpoint)
    logging.getLogger("lgrpo_lightning").removeHandler(handler)
    return weights(module), said.getvalue()


def rank(folder, number):
    """What one process does; Lightning takes the variable for a launcher's."""
    os.environ["LOCAL_RANK"] = str(number)
    found = {"whole": run(folder)}
    for step in (2, 4):
        found[step] = run(folder / "resumed", folder / f"step={step}.ckpt")
    torch.save(found, folder / f"rank-{number}.pt")


if __name__ == "__main__":
    run_two(rank, Path(sys.argv[1]))
