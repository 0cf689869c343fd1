"""What the steps return, which is all that callbacks may read."""

import csv
import json

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from lgrpo_callbacks import CompletionLogger, KLTracker, RewardEvaluator
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.rollout import SamplingSettings
from tests.module.runs import (
    HELD_OUT,
    TOKENS,
    Recorder,
    make_data,
    make_module,
    make_trainer,
    reward,
)

ROWS_OF_STEP = 3  # completions of a micro-batch, half a group
HOT = SamplingSettings(max_new_tokens=TOKENS, temperature=6.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recorder = Recorder()
    module = make_module(
        group_size=6,
        micro_batch_size=ROWS_OF_STEP,
        rewards=[reward("token_sum"), reward("applies_to_every_other")],
        loss=LambdaGRPOLoss(kl_coef=0.1),
        evaluation=HOT,
        eval_completions=4,
    )
    trainer = make_trainer(
        folder,
        max_steps=8,
        logger=CSVLogger(folder, name="", version=""),
        val_check_interval=4,
        num_sanity_val_steps=-1,
        callbacks=[recorder, KLTracker(), RewardEvaluator(k=[1, 4]), CompletionLogger()],
    )
    trainer.fit(module, datamodule=make_data(eval_path=HELD_OUT))
    return folder, module, recorder


TRAINING_KEYS = {
    *(
        "loss",
        "logprobs",
        "old_logprobs",
        "ref_logprobs",
        "entropy",
        "mask",
        "set_sizes",
        "completion_ids",
    ),
    *("advantages", "rewards", "truncated", "lengths", "group", "group_size", "kl_coef"),
    *("reward_breakdown", "prompts", "completions", "token_texts"),
}
EVALUATION_KEYS = {
    *("rewards", "reward_breakdown", "lengths", "truncated", "prompts", "completions", "sources"),
    "answers",
}


def test_training_steps_return_what_the_contract_says(run):
    _, _, recorder = run
    assert all(output.keys() >= TRAINING_KEYS for output in recorder.outputs)
    for batch, output in zip(recorder.batches, recorder.outputs, strict=True):
        rows = len(output["lengths"])
        length = int(output["lengths"].max())
        assert rows == ROWS_OF_STEP
        for name in ("logprobs", "old_logprobs", "ref_logprobs", "entropy"):
            assert output[name].shape == (rows, length)
            assert output[name].dtype == torch.float32
            assert (output[name][~output["mask"]] == 0).all()
            assert ((output[name] >= 0) if name == "entropy" else (output[name] <= 0)).all()
        assert output["mask"].shape == output["set_sizes"].shape == (rows, length)
        assert output["mask"].dtype == output["truncated"].dtype == torch.bool
        assert output["set_sizes"].dtype == output["lengths"].dtype == torch.long
        assert output["group"].dtype == torch.long
        for name in ("advantages", "rewards", "truncated", "lengths", "group"):
            assert output[name].shape == (rows,)
        assert output["reward_breakdown"].keys() == {"token_sum", "applies_to_every_other"}
        assert all(values.shape == (rows,) for values in output["reward_breakdown"].values())
        assert output["loss"].shape == ()
        assert output["kl_coef"] == 0.1
        assert output["prompts"] == [batch.prompts[group] for group in output["group"].tolist()]
        assert all(isinstance(text, str) for text in output["completions"])
        tensors = [value for value in output.values() if isinstance(value, torch.Tensor)]
        assert not any(value.requires_grad for value in tensors)


def test_the_logged_entropy_is_that_of_the_callback(run):
    folder, _, recorder = run
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/entropy"]]
    for row, output in zip(rows, recorder.outputs, strict=True):
        mean = float(output["entropy"][output["mask"]].mean())
        assert float(row["train/entropy"]) == pytest.approx(mean, rel=1e-5)
        assert float(row["kl/entropy"]) == pytest.approx(float(row["train/entropy"]), rel=1e-5)


def test_entropy_can_be_left_out(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, max_steps=1, callbacks=[recorder, KLTracker()])
    trainer.fit(make_module(entropy=False), datamodule=make_data())
    assert "entropy" not in recorder.outputs[0]
    assert "train/entropy" not in trainer.callback_metrics


def test_micro_batches_make_up_the_rollout(run):
    _, _, recorder = run
    for index, rollout in enumerate(recorder.rollouts):
        outputs = recorder.outputs[4 * index : 4 * index + 4]
        rows = rollout.micro_batches.flatten()
        assert sorted(rows.tolist()) == list(range(12))
        rewards = torch.cat([o["rewards"] for o in outputs])
        assert torch.equal(rewards, rollout.rewards.flatten()[rows])
        texts = [text for group in rollout.completions for text in group]
        seen = [text for output in outputs for text in output["completions"]]
        assert seen == [texts[row] for row in rows.tolist()]
        sizes = [o["set_sizes"].sum() for o in outputs]
        assert sum(sizes) == rollout.set_sizes.sum()
        assert rollout.set_sizes.max() > 1


def test_evaluation_steps_return_what_the_contract_says(run):
    _, _, recorder = run
    assert [len(output["prompts"]) for output in recorder.evaluated[:2]] == [3, 2]
    for output in recorder.evaluated:
        assert output.keys() >= EVALUATION_KEYS
        shape = (len(output["prompts"]), 4)
        for name in ("rewards", "lengths", "truncated"):
            assert output[name].shape == shape
        assert output["rewards"].dtype == torch.float32
        assert output["lengths"].dtype == torch.long
        assert output["truncated"].dtype == torch.bool
        assert {n: v.shape for n, v in output["reward_breakdown"].items()} == {
            "token_sum": shape,
            "applies_to_every_other": shape,
        }
        assert output["reward_breakdown"]["applies_to_every_other"][:, 1::2].isnan().all()
        assert [len(texts) for texts in output["completions"]] == [4] * shape[0]
        assert len(output["sources"]) == shape[0]
    prompts = [prompt for output in recorder.evaluated[:2] for prompt in output["prompts"]]
    assert prompts == [row["prompt"] for row in HELD_OUT]


def test_the_callbacks_run_on_it(run):
    folder, _, _ = run
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row["train/loss"]]
    assert [int(row["step"]) for row in trained] == list(range(8))
    for name in ("reward", "reward_std", "length", "path_depth", "unique_tokens", "kl", "ratio"):
        assert all(row[f"train/{name}"] for row in trained)
    assert all(float(row["train/kl"]) >= 0 for row in trained)
    for row in trained[::4]:  # on-policy; elsewhere KLTracker weighs by the ratio
        assert float(row["kl/ref"]) == pytest.approx(float(row["train/kl"]), rel=1e-4, abs=1e-7)
    evaluated = [row for row in rows if row["eval/pass@4"]]
    assert [int(row["step"]) for row in evaluated] == [0, 3, 7]  # counted from 0, as in training
    written = [
        json.loads(line)
        for path in sorted((folder / "completions").rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len(written) >= 8 * ROWS_OF_STEP


def test_predictions_have_the_same_keys(run):
    folder, module, recorder = run
    trainer = make_trainer(folder)
    found = trainer.predict(module, datamodule=make_data(eval_path=HELD_OUT))
    assert [len(output["prompts"]) for output in found] == [3, 2]
    assert found[0].keys() == recorder.evaluated[0].keys()
