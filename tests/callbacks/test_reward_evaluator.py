import csv
import itertools
import json
import math
import statistics

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lgrpo_callbacks import RewardEvaluator, read_jsonl
from lgrpo_callbacks.evaluation import Criterion, evaluate_problems
from tests.callbacks.boring import BoringPolicy, make_trainer


def flat(tensor):
    return [value for value in tensor.flatten().tolist() if not math.isnan(value)]


def expected_pass_at_k(rewards, k):
    per_problem = []
    for row in rewards.tolist():
        tries = list(itertools.combinations(row, k))
        per_problem.append(sum(max(chosen) >= 1 for chosen in tries) / len(tries))
    return statistics.mean(per_problem)


def make_problem(rewards, **values):
    n = len(rewards)
    return {
        "prompt": "p",
        "source": "s",
        "completions": ["c"] * n,
        "rewards": rewards,
        "reward_breakdown": {},
        "lengths": [1] * n,
        "truncated": [False] * n,
        **values,
    }


def test_figures_equal_an_independent_computation(tmp_path):
    module = BoringPolicy(problems=7)
    evaluator = RewardEvaluator(k=(1, 3))
    trainer = make_trainer(tmp_path, evaluator, limit_val_batches=1.0)
    trainer.validate(module, verbose=False)
    got = {name: value.item() for name, value in trainer.callback_metrics.items()}
    rewards = module.eval_rewards
    wanted = {
        "eval/problems": 7,
        "eval/reward": statistics.mean(flat(rewards)),
        "eval/reward_std": statistics.stdev(flat(rewards)),
        "eval/unrewarded": 0,
        "eval/length": statistics.mean(flat(module.eval_lengths)),
        "eval/truncated": statistics.mean(flat(module.eval_truncated.float())),
        "eval/reward_function/exact": statistics.mean(flat(rewards)),
        "eval/reward_function/format": statistics.mean(flat(module.eval_format)),
        "eval/pass@1": expected_pass_at_k(rewards, 1),
        "eval/pass@3": expected_pass_at_k(rewards, 3),
        "eval/pass@1_se": statistics.stdev(row.mean().item() for row in rewards) / 7**0.5,
    }
    for source, rows in (("even", slice(0, None, 2)), ("odd", slice(1, None, 2))):
        wanted |= {
            f"eval/source/{source}/problems": len(rewards[rows]),
            f"eval/source/{source}/reward": statistics.mean(flat(rewards[rows])),
            f"eval/source/{source}/length": statistics.mean(flat(module.eval_lengths[rows])),
            f"eval/source/{source}/truncated": statistics.mean(
                flat(module.eval_truncated[rows].float())
            ),
            f"eval/source/{source}/pass@1": expected_pass_at_k(rewards[rows], 1),
            f"eval/source/{source}/pass@3": expected_pass_at_k(rewards[rows], 3),
        }
    for name, value in wanted.items():
        assert got.pop(name) == pytest.approx(value, rel=1e-6), name
    for k, where in itertools.product((1, 3), ("", "source/even/", "source/odd/")):
        name = f"eval/{where}pass@{k}"
        assert got.pop(f"{name}_low") <= wanted[name] <= got.pop(f"{name}_high")
        got.pop(f"{name}_se", None)
    assert not got


def expected_majority_at_k(answers, rewards, k):
    per_problem = []
    for texts, scores in zip(answers, rewards.tolist(), strict=True):
        known = list(zip(texts, scores, strict=True))
        draws = []
        for draw in itertools.combinations(known, k):
            texts = [answer for answer, _ in draw if answer is not None]
            most = max((texts.count(text) for text in texts), default=0)
            winners = {text for text in texts if texts.count(text) == most}
            worth = [statistics.mean(r >= 1 for a, r in known if a == text) for text in winners]
            draws.append(statistics.mean(worth) if worth else 0.0)
        per_problem.append(statistics.mean(draws))
    return statistics.mean(per_problem)


def test_majorities_are_counted_where_completions_have_answers(tmp_path):
    module = BoringPolicy(problems=7)
    module.left_out = ()
    evaluator = RewardEvaluator(k=(3, 4))
    trainer = make_trainer(tmp_path, evaluator, limit_val_batches=1.0)
    trainer.validate(module, verbose=False)
    got = trainer.callback_metrics
    assert "eval/pass@1" in got
    assert "eval/maj@1" not in got
    for k in (3, 4):
        wanted = expected_majority_at_k(module.answers, module.eval_rewards, k)
        assert got[f"eval/maj@{k}"].item() == pytest.approx(wanted)
        assert got[f"eval/maj@{k}_low"] < wanted < got[f"eval/maj@{k}_high"]
    assert [row["answers"] for row in read_jsonl(evaluator.paths[0])] == module.answers


def test_unrewarded_completions_have_no_vote():
    nan = float("nan")
    problems = [
        make_problem([1.0, 0.0, nan, nan], answers=["a", "b", "b", "b"]),
        make_problem([0.0, nan, nan, nan], answers=["a", "a", "a", "a"]),
        make_problem([1.0, 1.0, 1.0, 1.0]),  # of a set whose problems have no answers
    ]
    figures = evaluate_problems(problems, [1, 2], Criterion(1.0), resamples=10)
    assert figures["maj@2"] == 0.5  # of the first problem alone, a tie
    assert math.isnan(figures["maj@2_se"])


def test_unrewarded_completions_are_left_out_and_counted():
    nan = float("nan")
    problems = [
        make_problem([1.0, 0.0, nan]),
        make_problem([nan, nan, nan], source="never"),
        make_problem([1.0, nan, nan]),
    ]
    figures = evaluate_problems(problems, [1, 2], Criterion(1.0), resamples=10)
    assert figures["reward"] == pytest.approx(2 / 3)
    assert figures["unrewarded"] == pytest.approx(6 / 9)
    assert figures["pass@1"] == pytest.approx((0.5 + 1.0) / 2)
    assert figures["pass@2"] == 1.0  # of the first problem alone
    assert math.isnan(figures["source/never/reward"])


def test_the_threshold_forgives_the_rounding_of_float32():
    almost_one = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0)).item()
    assert almost_one < 1
    figures = evaluate_problems([make_problem([almost_one])], [1], Criterion(1.0), 10)
    assert figures["pass@1"] == 1


def test_one_function_can_decide_what_is_solved(tmp_path):
    module = BoringPolicy(problems=7)
    module.left_out = ()
    found = {}
    for name in (None, "format"):
        evaluator = RewardEvaluator(k=2, success_threshold=0.5, solved_by=name)
        trainer = make_trainer(tmp_path, evaluator, limit_val_batches=1.0)
        trainer.validate(module, verbose=False)
        found[name] = evaluator.history[0]["metrics"]
    assert found[None]["eval/reward"] == found["format"]["eval/reward"]
    solved = (module.eval_format[1:] >= 0.5).float()  # the first problem has no such reward
    for k in (1, 2):
        assert found["format"][f"eval/pass@{k}"] == pytest.approx(expected_pass_at_k(solved, k))
    wanted = expected_majority_at_k(module.answers[1:], solved, 2)
    assert found["format"]["eval/maj@2"] == pytest.approx(wanted)
    trainer = make_trainer(tmp_path, RewardEvaluator(solved_by="style"), limit_val_batches=1.0)
    with pytest.raises(ValueError, match="has no such function, only 'exact', 'format'"):
        trainer.validate(module, verbose=False)


def test_checkpoints_and_early_stopping_can_monitor_it(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="eval/pass@1", mode="max", filename="best-{step}")
    stop = EarlyStopping(monitor="eval/reward", mode="max", patience=1)
    trainer = make_trainer(
        tmp_path,
        RewardEvaluator(),
        best,
        stop,
        enable_checkpointing=True,
        limit_val_batches=1.0,
        max_epochs=9,
    )
    trainer.fit(BoringPolicy(rows=4))
    assert trainer.current_epoch == 2  # the reward never changes
    assert best.best_model_score.item() == pytest.approx(
        expected_pass_at_k(BoringPolicy().eval_rewards, 1)
    )


def test_a_whole_sanity_check_is_the_evaluation_before_training(tmp_path):
    evaluator = RewardEvaluator()
    trainer = make_trainer(
        tmp_path,
        evaluator,
        logger=CSVLogger(tmp_path),
        limit_val_batches=1.0,
        num_sanity_val_steps=-1,
    )
    trainer.fit(BoringPolicy(rows=8))
    assert [(record["step"], record["stage"]) for record in evaluator.history] == [
        (0, "validation"),
        (4, "validation"),
    ]
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        logged = [(int(row["step"]), float(row["eval/reward"])) for row in csv.DictReader(file)]
    assert logged[0] == (0, pytest.approx(evaluator.history[0]["metrics"]["eval/reward"]))
    assert len(logged) == 2
    assert [path.name for path in evaluator.paths] == [
        "validation-step-00000000.jsonl",
        "validation-step-00000004.jsonl",
    ]
    assert evaluator.paths[0].parent == tmp_path / "lightning_logs" / "version_0" / "evaluations"


def test_a_partial_sanity_check_is_ignored_but_checks_the_keys(tmp_path):
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": 1}
    evaluator = RewardEvaluator()
    make_trainer(tmp_path, evaluator, **options).fit(BoringPolicy(rows=8))
    assert [record["step"] for record in evaluator.history] == [4]
    assert evaluator.history[0]["metrics"]["eval/problems"] == 6
    module = BoringPolicy(rows=8)
    module.left_out = ("lengths",)
    with pytest.raises(ValueError, match="'lengths'"):
        make_trainer(tmp_path, RewardEvaluator(), **options).fit(module)


def test_the_file_has_every_problem_and_no_other_file_is_replaced(tmp_path):
    module = BoringPolicy(problems=3, samples=2)
    evaluator = RewardEvaluator()
    trainer = make_trainer(tmp_path, evaluator, limit_val_batches=1.0)
    for _ in range(3):
        trainer.validate(module, verbose=False)
    assert [path.name for path in evaluator.paths] == [
        "validation-step-00000000.jsonl",
        "validation-step-00000000-2.jsonl",
        "validation-step-00000000-3.jsonl",
    ]
    assert sorted(path.name for path in (tmp_path / "evaluations").iterdir()) == sorted(
        path.name for path in evaluator.paths
    )
    problems = read_jsonl(evaluator.paths[0])
    assert [problem["prompt"] for problem in problems] == ["problem 0", "problem 1", "problem 2"]
    assert problems[1] == {
        "prompt": "problem 1",
        "source": "odd",
        "completions": ["answer 1.0", "answer 1.1"],
        "rewards": module.eval_rewards[1].tolist(),
        "reward_breakdown": {
            "exact": module.eval_rewards[1].tolist(),
            "format": module.eval_format[1].tolist(),
        },
        "lengths": module.eval_lengths[1].tolist(),
        "truncated": module.eval_truncated[1].tolist(),
    }
    assert problems[0]["reward_breakdown"]["format"] == [None, None]  # NaN is no JSON


def test_history_survives_a_resume_and_loads_with_weights_only(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, monitor="eval/reward")
    options = {"limit_val_batches": 1.0, "enable_checkpointing": True}
    make_trainer(tmp_path, RewardEvaluator(), saver, max_epochs=2, **options).fit(
        BoringPolicy(rows=4)
    )
    states = torch.load(tmp_path / "step=2.ckpt", weights_only=True)["callbacks"]
    key = "RewardEvaluator{'prefix': 'eval', 'dirname': 'evaluations'}"
    assert [record["step"] for record in states[key]["history"]] == [2]
    evaluator = RewardEvaluator()
    trainer = make_trainer(tmp_path, evaluator, max_epochs=3, limit_val_batches=1.0)
    trainer.fit(BoringPolicy(rows=4), ckpt_path=tmp_path / "step=2.ckpt", weights_only=True)
    assert [record["step"] for record in evaluator.history] == [2, 4, 6]


def test_testing_an_older_checkpoint_keeps_the_history_and_names_its_step(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    evaluator = RewardEvaluator()
    trainer = make_trainer(
        tmp_path,
        evaluator,
        saver,
        limit_val_batches=1.0,
        enable_checkpointing=True,
        max_epochs=2,
    )
    module = BoringPolicy(rows=4)
    trainer.fit(module)
    trainer.test(module, ckpt_path=tmp_path / "step=2.ckpt", weights_only=True, verbose=False)
    trainer.test(module, verbose=False)
    assert [(record["step"], record["stage"]) for record in evaluator.history] == [
        (2, "validation"),
        (4, "validation"),
        (2, "test"),
        (4, "test"),
    ]
    assert "test/reward" in evaluator.history[-1]["metrics"]
    assert evaluator.paths[2].name == "test-step-00000002.jsonl"


def test_the_summary_shows_the_first_and_the_last_evaluation(tmp_path):
    evaluator = RewardEvaluator()
    assert evaluator.summary() == ""
    make_trainer(tmp_path, evaluator, limit_val_batches=1.0, max_epochs=3).fit(BoringPolicy(rows=4))
    lines = evaluator.summary().splitlines()
    assert lines[0].split() == ["validation", "step", "2", "step", "6"]
    reward = f"{BoringPolicy().eval_rewards.mean().item():.4f}"
    assert next(line.split() for line in lines if line.startswith("eval/reward ")) == [
        "eval/reward",
        reward,
        reward,
    ]


@pytest.mark.parametrize(
    "key",
    ["rewards", "reward_breakdown", "lengths", "truncated", "prompts", "completions", "sources"],
)
def test_a_missing_key_is_named_with_the_method_that_must_return_it(tmp_path, key):
    module = BoringPolicy()
    module.left_out = (key,)
    trainer = make_trainer(tmp_path, RewardEvaluator(), limit_val_batches=1.0)
    with pytest.raises(ValueError, match=f"RewardEvaluator needs '{key}' .*validation_step"):
        trainer.validate(module)
    with pytest.raises(ValueError, match=f"RewardEvaluator needs '{key}' .*test_step"):
        trainer.test(module)


def test_too_few_completions_are_refused_at_the_first_batch(tmp_path):
    trainer = make_trainer(tmp_path, RewardEvaluator(k=[1, 8]), limit_val_batches=1.0)
    with pytest.raises(ValueError, match=r"needs 8 completions .* returned 4"):
        trainer.validate(BoringPolicy(samples=4))


def test_answers_of_another_size_are_refused(tmp_path):
    module = BoringPolicy()
    module.left_out = ()
    module.answers = [row[:2] for row in module.answers]
    trainer = make_trainer(tmp_path, RewardEvaluator(), limit_val_batches=1.0)
    with pytest.raises(ValueError, match="answers must have 4 entries for every problem, got 2"):
        trainer.validate(module)


def test_sizes_that_differ_from_the_rewards_are_refused(tmp_path):
    module = BoringPolicy()
    module.eval_lengths = module.eval_lengths[:, :1]
    trainer = make_trainer(tmp_path, RewardEvaluator(), limit_val_batches=1.0)
    with pytest.raises(ValueError, match=r"lengths must have the rewards' shape \[2, 4\]"):
        trainer.validate(module)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"k": 0}, "k must"),
        ({"k": [1, -1]}, "k must"),
        ({"every_n_steps": 0}, "every_n_steps must"),
        ({"success_threshold": float("nan")}, "success_threshold must"),
        ({"dirname": ""}, "dirname must"),
        ({"prefix": "test"}, "prefix and test_prefix must differ"),
        ({"bootstrap_samples": 0}, "bootstrap_samples must"),
    ],
)
def test_arguments_out_of_range_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        RewardEvaluator(**options)


def test_a_remote_run_folder_needs_a_local_dirname(tmp_path):
    trainer = make_trainer("memory://run", RewardEvaluator(), limit_val_batches=1.0)
    with pytest.raises(ValueError, match="absolute local path"):
        trainer.validate(BoringPolicy())
    evaluator = RewardEvaluator(dirname=str(tmp_path / "here"))
    trainer = make_trainer("memory://run", evaluator, limit_val_batches=1.0)
    trainer.validate(BoringPolicy(), verbose=False)
    assert json.loads(evaluator.paths[0].read_text().splitlines()[0])["prompt"] == "problem 0"
    assert evaluator.paths[0].parent == tmp_path / "here"
