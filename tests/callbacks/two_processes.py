"""Runs the callbacks in as many processes as told and writes what each rank saw.

Started by test_two_processes.py: ``python two_processes.py FOLDER PROCESSES``.
"""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback

from lgrpo_callbacks import (
    CompletionLogger,
    ExportHuggingFace,
    KLTracker,
    ProcessTreeMonitor,
    ReferenceSync,
    RewardEvaluator,
)
from lgrpo_callbacks.metrics import MajorityAtK, MaskedMeans, PassAtK
from tests.callbacks.boring import make_trainer
from tests.callbacks.trees import TreePolicy
from tests.callbacks.weights import RegressionPolicy

ROWS_PER_STEP = 12


class Recorder(Callback):
    def __init__(self):
        self.steps, self.metrics = {}, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        self.steps[trainer.global_step] = {n: v for n, v in values.items() if n != "loss"}

    def on_train_end(self, trainer, pl_module):
        # Metrics outside of any callback, while the processes are connected.
        problems = torch.arange(pl_module.problems)[trainer.global_rank :: trainer.world_size]
        pass_at_k = PassAtK(k=2)
        pass_at_k.update(pl_module.eval_rewards[problems] >= 1)
        majority = MajorityAtK(k=3)
        answers = [pl_module.answers[row] for row in problems.tolist()]
        majority.update(answers, pl_module.eval_rewards[problems] >= 1)
        rows = torch.arange(pl_module.rows)[trainer.global_rank :: trainer.world_size]
        means = MaskedMeans(["logprob"])
        means.update({"logprob": pl_module.logprobs[rows]}, pl_module.mask[rows])
        self.metrics = {
            "pass@2": pass_at_k.compute().item(),
            "maj@3": majority.compute().item(),
            "logprob": means.compute().means["logprob"].item(),
        }


def fit(folder, processes, *callbacks, module, **options):
    trainer = make_trainer(
        folder,
        *callbacks,
        strategy="ddp" if processes > 1 else "auto",
        devices=processes,
        accumulate_grad_batches=3,
        **options,
    )
    trainer.fit(module)
    return trainer


def make_module(processes, **options):
    return TreePolicy(rows=36, problems=7, batch_size=ROWS_PER_STEP // 3 // processes, **options)


def main(folder, processes):
    tracker = KLTracker(target=0.01, horizon=100)
    evaluator, recorder = RewardEvaluator(k=[1, 3]), Recorder()
    module = make_module(processes)
    module.left_out = ()  # with answers, so that majorities are counted
    trainer = fit(
        folder / "run",
        processes,
        tracker,
        evaluator,
        CompletionLogger(),
        ProcessTreeMonitor(every_n_steps=2, picture=False),
        recorder,
        module=module,
        limit_val_batches=1.0,
        num_sanity_val_steps=-1,
    )
    seen = {
        "steps": recorder.steps,
        "metrics": recorder.metrics,
        "history": [{**record, "file": Path(record["file"]).name} for record in evaluator.history],
        "kl_coef": module.loss.kl_coef,
        "monitored": trainer.callback_metrics["eval/reward"].item(),
    }

    module = make_module(processes)
    module.ref_logprobs = module.logprobs.nan_to_num()
    module.ref_logprobs[12:24:2] += 9.0  # even rows only: with two processes those of rank 0
    tracker = KLTracker(stop_above=1.0)
    seen["stopped_at"] = fit(folder / "stop", processes, tracker, module=module).global_step
    seen["stop_reason"] = tracker.stop_reason

    module = make_module(processes)
    module.ref_logprobs[13, 0] = float("nan")  # with two processes a row of rank 1
    try:
        fit(folder / "broken", processes, KLTracker(), module=module)
    except FloatingPointError as error:
        seen["error"] = str(error)

    module = RegressionPolicy(rows=24, batch_size=2 // processes)
    export = ExportHuggingFace(monitor="loss", mode="min", tokenizer=None)
    options = {"max_epochs": 2, "limit_val_batches": 1.0}
    fit(folder / "sync", processes, ReferenceSync(3, 0.5), export, module=module, **options)
    reference = module.reference["frozen"].state_dict()
    seen["reference"] = {name: value.tolist() for name, value in reference.items()}
    seen["best"] = [export.best_step, export.best_score]

    (folder / f"rank-{trainer.global_rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
