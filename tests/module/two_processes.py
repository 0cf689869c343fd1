"""Run by test_two_processes.py in an interpreter of its own: two processes share a rollout."""

import os
import sys
from pathlib import Path

import torch

from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.objective.denominators import Aggregation
from lgrpo_lightning.policy import LoRASettings
from lgrpo_lightning.rollout import SamplingSettings
from tests.module.fixed import FixedRollouts
from tests.module.ranks import run_two
from tests.module.runs import HELD_OUT, Recorder, make_data, make_module, make_trainer

CASES = {
    "group-token-mean": {},
    "token-mean": {"aggregation": "token-mean"},
    "seq-mean-token-mean": {"aggregation": "seq-mean-token-mean"},
    "seq-mean-token-sum-norm": {"aggregation": "seq-mean-token-sum-norm"},
    "group-node-mean": {"aggregation": "group-node-mean"},
    "adapter": {"policy": {"lora": LoRASettings(r=2, dropout=0.0), "gradient_checkpointing": True}},
    "batch advantages": {"advantage_scale": "batch"},
    "padded": {"engine": "padded"},
    **{
        f"plain {aggregation}": {
            "loss": LambdaGRPOLoss(process_set_scaling=False, kl_coef=0.3),
            "aggregation": aggregation,
        }
        for aggregation in Aggregation.__args__
    },
}


def gradients(folder, model, processes, size):
    """{case: gradients of two iterations} over a rollout of 4 prompts × 4, and the figures."""
    found = {}
    for case, options in CASES.items():
        recorder = Recorder()
        trainer = make_trainer(
            folder,
            callbacks=[recorder],
            devices=processes,
            strategy="auto" if processes == 1 else "ddp",
            precision="64-true",
            max_steps=2,
            accumulate_grad_batches=16 // processes // size,
        )
        torch.manual_seed(0)  # of a fresh adapter
        module = make_module(
            model,
            kind=FixedRollouts,
            group_size=4,
            micro_batch_size=size,
            num_iterations=2,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.3),
            **{"loss": LambdaGRPOLoss(kl_coef=0.3), **options},
        )
        trainer.fit(module, datamodule=make_data(prompts_per_rollout=4 // processes))
        figures = {
            name: float(value)
            for name, value in trainer.logged_metrics.items()
            if name != "train/tokens_per_second"
        }
        found[case] = (torch.stack(recorder.gradients), figures)
    return found


def sampled(folder):
    """Lengths of completions of a run that samples and evaluates, 5 prompts on 2 processes."""
    recorder = Recorder()
    trainer = make_trainer(
        folder, callbacks=[recorder], devices=2, strategy="ddp", max_steps=2, val_check_interval=1
    )
    sampling = SamplingSettings(max_new_tokens=90, temperature=6.0)
    module = make_module(group_size=4, sampling=sampling, evaluation=sampling)
    data = make_data(eval_path=HELD_OUT, eval_prompts_per_batch=3)
    trainer.fit(module, datamodule=data)
    return {
        "trained": [outputs["lengths"].tolist() for outputs in recorder.outputs],
        "evaluated": [outputs["lengths"].flatten().tolist() for outputs in recorder.evaluated],
    }


def rank(folder, model, number):
    """What one process does; Lightning takes the variables for a launcher's."""
    os.environ["LOCAL_RANK"] = str(number)
    torch.save(gradients(folder, model, 2, 2), folder / f"rank-{number}.pt")
    torch.save(sampled(folder), folder / f"sampled-{number}.pt")


if __name__ == "__main__":
    run_two(rank, Path(sys.argv[1]), sys.argv[2])
