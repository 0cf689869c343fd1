"""What is logged of an optimizer step, computed anew from what the steps returned."""

import csv
import math

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lgrpo_lightning.objective import LambdaGRPOLoss
from tests.module.runs import HELD_OUT, Recorder, make_data, make_module, make_trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two iterations over rollouts of 4 micro-batches, two of them to an optimizer step."""
    folder = tmp_path_factory.mktemp("run")
    recorder = Recorder()
    trainer = make_trainer(
        folder,
        max_steps=8,
        accumulate_grad_batches=2,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[recorder],
    )
    module = make_module(
        group_size=4,
        micro_batch_size=2,
        num_iterations=2,
        loss=LambdaGRPOLoss(kl_coef=0.1, clip_low=0.02, clip_high=0.03),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )
    trainer.fit(module, datamodule=make_data())
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [
            {name.removeprefix("train/"): float(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
    return rows, recorder


def test_every_optimizer_step_is_one_line(run):
    rows, _ = run
    assert [row["step"] for row in rows] == list(range(8))
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(row["tokens_per_second"] > 0 for row in rows)


def test_figures_of_a_step_are_means_over_the_tokens_of_its_micro_batches(run):
    rows, recorder = run
    for step, row in enumerate(rows):
        outputs = recorder.outputs[2 * step : 2 * step + 2]

        def tokens(name, outputs=outputs):
            return torch.cat([output[name][output["mask"]] for output in outputs])

        ratio = (tokens("logprobs") - tokens("old_logprobs")).exp()
        gap = tokens("ref_logprobs") - tokens("logprobs")
        advantages = torch.cat(
            [o["advantages"].unsqueeze(1).expand_as(o["mask"])[o["mask"]] for o in outputs]
        )
        expected = {
            # Lightning divides what callbacks get by the two micro-batches.
            "loss": torch.stack([output["loss"] for output in outputs]).sum(),
            "ratio": ratio.mean(),
            "kl": (gap.exp() - gap - 1).mean(),
            "weight": (1 / tokens("set_sizes")).mean(),
            "clipped_low": ((ratio < 0.98) & (advantages < 0)).float().mean(),
            "clipped_high": ((ratio > 1.03) & (advantages > 0)).float().mean(),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
        assert row["sampler_gap"] < 1e-5


def test_figures_of_a_rollout_are_the_same_in_all_its_steps(run):
    rows, recorder = run
    for number, rollout in enumerate(recorder.rollouts):
        lengths = rollout.completion_mask.sum(-1).float()
        expected = {
            "reward": rollout.rewards.mean(),
            "rewards/token_sum": rollout.rewards.mean(),
            "reward_std": rollout.rewards.std(dim=1).mean(),
            "length": lengths.mean(),
            "truncated": 1 - rollout.finished.float().mean(),
            "unique_tokens": rollout.tree().num_nodes.sum() / lengths.sum(),
            "path_depth": rollout.tree().path_depth.float().mean(),
            "intermediate_proportion": rollout.tree().intermediate_proportion.mean(),
            "reward_errors/token_sum": 0,
        }
        for row in rows[4 * number : 4 * number + 4]:
            for name, value in expected.items():
                assert row[name] == pytest.approx(float(value), rel=1e-5), name


def test_evaluation_is_no_training_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lgrpo_lightning.metrics.throughput.time.perf_counter", lambda: now[0])

    class Slow(Recorder):
        def on_before_backward(self, *args):
            now[0] += 1.0

        def on_validation_start(self, *args):
            now[0] += 1000.0

    recorder = Slow()
    trainer = make_trainer(tmp_path, max_steps=2, val_check_interval=1, callbacks=[recorder])
    trainer.fit(make_module(), datamodule=make_data(eval_path=HELD_OUT))
    tokens = int(recorder.outputs[1]["mask"].sum())
    # The step's own second comes after its reading: it counts the one of the step before.
    assert trainer.logged_metrics["train/tokens_per_second"] == pytest.approx(tokens)
