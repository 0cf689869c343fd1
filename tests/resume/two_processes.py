"""Run by test_two_processes_resume.py in an interpreter of its own: two processes, stopped."""

import contextlib
import io
import logging
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

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
    folder = Path(sys.argv[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    # Forked, so that the libraries are imported once.
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=rank, args=(folder, number)) for number in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode) for process in ranks))
