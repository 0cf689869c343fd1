"""What is told when a run has ended."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from lgrpo_callbacks import RewardEvaluator
from lgrpo_callbacks.jsonl import write_new_jsonl
from lgrpo_lightning.cli.fit_summary import summarise
from tests.cli.running import lgrpo


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Make a finished run out of the rewards of its evaluations, each of three problems."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "a"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "config.yaml").touch()

    def finish(evaluations, best=None, evaluated=True, completion="c" * 3, loggers=(), sets=()):
        evaluator = RewardEvaluator()
        for step, rewards in evaluations.items():
            problems = [
                {"prompt": f"p{i}", "completions": [f"{completion}{step}"], "rewards": [reward]}
                for i, reward in enumerate(rewards)
            ]
            path = write_new_jsonl(folder / f"{step}.jsonl", problems)
            known = [reward for reward in rewards if not math.isnan(reward)]
            metrics = {"eval/reward": sum(known) / len(known), "eval/length": 3.0}
            metrics |= {f"eval/source/{name}/pass@1": 0.5 for name in sets}
            evaluator.history.append(
                {"step": step, "stage": "validation", "metrics": metrics, "file": str(path)}
            )
        checkpoint = ModelCheckpoint(monitor="eval/reward", mode="max")
        if best is not None:
            checkpoint.best_model_path = str(folder / "checkpoints" / f"step={best}.ckpt")
            checkpoint.best_model_score = torch.tensor(0.5)
        trainer = SimpleNamespace(
            callbacks=[evaluator, checkpoint] if evaluated else [],
            checkpoint_callbacks=[checkpoint],
            callback_metrics={"train/reward": torch.tensor(0.25)},
            loggers=list(loggers),
            global_step=max(evaluations, default=0),
        )
        return summarise(folder, trainer)

    return finish


def test_before_and_after_with_the_problems_that_changed_most(run):
    said = run({0: [0, 1, 0], 8: [0, 1, 1]})
    assert said.startswith("finished at optimizer step 8; run folder: runs/a\n\n")
    assert "evaluation   step 0  last step 8\n" in said
    assert "eval/reward  0.333   0.667\n" in said
    examples = said[said.index("3 completions before and after:") :]
    assert examples.split("\n\n")[1] == (
        "  prompt   p2\n  before   ccc0 (reward 0)\n  after    ccc8 (reward 1)"
    )
    assert said.endswith(
        "next:\n"
        "  lgrpo validate -c runs/a/config.yaml \\\n"
        "      --ckpt_path runs/a/checkpoints/last.ckpt\n"
        "  lgrpo report runs/a"
    )


def test_the_best_evaluation_is_shown_where_it_is_not_the_last(run):
    said = run({0: [0, 0, 1], 4: [1, 1, 1], 8: [0, 1, 1]}, best=4)
    assert "evaluation   step 0  best step 4  last step 8\n" in said
    assert "eval/reward  0.333   1.000        0.667\n" in said
    assert "next, with the best checkpoint (eval/reward 0.500):" in said
    assert "--ckpt_path runs/a/checkpoints/step=4.ckpt" in said


def test_the_best_of_equals_is_the_last(run):
    said = run({0: [0, 0, 1], 4: [1, 1, 1], 8: [1, 1, 1]}, best=4)
    assert "evaluation   step 0  last step 8\n" in said


def test_rewards_that_do_not_apply(run):
    said = run({0: [0, float("nan"), 1], 8: [1, float("nan"), 1]})
    assert "  after    ccc8 (no reward)" in said


@pytest.mark.parametrize(("columns", "widest"), [(80, 80), (120, 120), (20, 80), (999, 120)])
def test_long_completions_fit_the_terminal(run, monkeypatch, columns, widest):
    monkeypatch.setenv("COLUMNS", str(columns))
    said = run({0: [0, 0, 0], 8: [1, 1, 1]}, completion="many words " * 100)
    lines = said.splitlines()
    assert max(map(len, lines)) <= widest
    assert sum("words" in line for line in lines) == 3 * 2 * 4
    assert "(reward 1)" in said


def test_several_sets_have_a_line_each(run):
    said = run({0: [0, 1, 0], 8: [0, 1, 1]}, sets=("amc23", "gsm8k"))
    assert "eval/source/amc23/pass@1  0.500   0.500\n" in said
    assert "eval/source/gsm8k/pass@1" in said
    assert "pass@1" not in run({0: [0, 1, 0], 8: [0, 1, 1]}, sets=("gsm8k",))


def test_advice_where_nothing_can_be_compared(run):
    assert "lower trainer.val_check_interval" in run({0: [0, 1, 0]})
    assert "set trainer.num_sanity_val_steps to -1" in run({8: [0, 1, 0]})
    assert "nothing was evaluated" in run({})
    without = run({}, evaluated=False)
    assert "reward of the last step: 0.250; to see what training improves" in without


def test_tensorboard_is_offered_where_it_was_written(run, tmp_path):
    assert "tensorboard" not in run({8: [0, 1, 0]})
    said = run({8: [0, 1, 0]}, loggers=[TensorBoardLogger(tmp_path)])
    assert "  tensorboard --logdir runs\n" in said


def test_a_real_run_tells_it(trained):
    said = trained.outcome.out
    assert "evaluation      step 0  last step 2\n" in said
    for name in ("eval/reward", "eval/pass@1", "eval/length", "eval/truncated"):
        assert said.count(name) == 1
    assert "\\boxed{" in said


def test_a_newcomer_sees_no_warning_that_is_meant_to_be_so_and_no_advertisement(trained):
    known = ("Seed set", "GPU available", "run folder:", "a rollout is", "engine:", "sampler")
    lines = trained.outcome.err.splitlines()
    assert [line for line in lines if not line.startswith(known)] == []


def test_warnings_that_mean_something_are_shown(place, recwarn):
    same = '{"prompt": "Q:1+1=", "answer": "2"}\n' * 4
    (place / "same.jsonl").write_text(same)
    assert lgrpo("fit", "-c", "tiny.yaml", "--data.path", "same.jsonl").code == 0
    assert any("repeat others" in str(warning.message) for warning in recwarn)
