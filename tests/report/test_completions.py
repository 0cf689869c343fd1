import json

from lgrpo_lightning.report.evaluations import evaluation_files, read_evaluations
from lgrpo_lightning.report.training import read_training
from tests.report.made_runs import write_lines

PLENTY = 10**9


def row(step, group, completion, reward=1.0, **other):
    return {
        "step": step,
        "prompt": f"prompt {group}",
        "completion": completion,
        "reward": reward,
        "advantage": 0.5,
        "group": group,
        "length": 3,
        "truncated": False,
        "reward_breakdown": {"f": reward},
    } | other


def problem(name, *completions):
    return {
        "prompt": name,
        "completions": list(completions),
        "rewards": [1.0 for _ in completions],
        "reward_breakdown": {"f": [None for _ in completions]},
        "lengths": [2 for _ in completions],
        "truncated": [True for _ in completions],
    }


def test_groups_of_all_ranks_come_in_order_of_steps(tmp_path):
    write_lines(tmp_path / "completions/rank-0.jsonl", [row(1, 0, "a"), row(2, 0, "b")])
    write_lines(tmp_path / "completions/rank-1.jsonl", [row(1, 0, "c"), row(1, 1, "d")])
    notes = []
    groups = read_training(tmp_path, PLENTY, notes)
    assert [(g["step"], g["index"], g["completions"][0]["text"]) for g in groups] == [
        (1, 0, "a"),
        (1, 1, "c"),
        (1, 2, "d"),
        (2, 0, "b"),
    ]
    assert notes == []


def test_equal_completions_are_kept_once_with_their_number(tmp_path):
    rows = [row(1, 0, "a"), row(1, 0, "b"), row(1, 0, "a"), row(1, 0, "a", reward=0.0)]
    write_lines(tmp_path / "completions/rank-0.jsonl", rows)
    (group,) = read_training(tmp_path, PLENTY, [])
    found = [(c["text"], c["reward"], c["count"]) for c in group["completions"]]
    assert found == [("a", 1.0, 2), ("b", 1.0, 1), ("a", 0.0, 1)]


def test_beyond_the_budget_whole_groups_are_sampled_evenly_and_said(tmp_path):
    rows = [row(step, 0, text) for step in range(1, 101) for text in ("first", "other")]
    write_lines(tmp_path / "completions/rank-0.jsonl", rows)
    size = (tmp_path / "completions/rank-0.jsonl").stat().st_size
    notes = []
    groups = read_training(tmp_path, size // 10, notes)
    steps = [group["step"] for group in groups]
    assert 8 <= len(steps) <= 10
    assert (steps[0], steps[-1]) == (1, 100)
    assert all(len(group["completions"]) == 2 for group in groups)
    assert notes == [
        f"Training completions: {len(steps)} of 100 groups, evenly over the run, to keep the page "
        "small."
    ]


def test_equal_completions_and_prompts_count_once_against_the_budget(tmp_path):
    rows = [row(step, 0, "same", prompt="p" * 1000) for step in range(1, 21) for _ in range(16)]
    write_lines(tmp_path / "completions/rank-0.jsonl", rows)
    assert len(read_training(tmp_path, 20 * 1300, [])) == 20


def test_values_of_wrong_types_are_taken_as_unknown(tmp_path):
    wrong = row(1, 0, {"role": "assistant"}, "much", length="3", truncated=0, reward_breakdown=[])
    write_lines(tmp_path / "completions/rank-0.jsonl", [wrong | {"advantage": float("nan")}])
    (group,) = read_training(tmp_path, PLENTY, [])
    assert group["completions"] == [
        {
            "text": '{"role": "assistant"}',
            "count": 1,
            "reward": None,
            "advantage": None,
            "length": None,
            "truncated": None,
            "breakdown": {},
        }
    ]


def test_lines_that_are_no_completions_are_left_out_and_said(tmp_path):
    write_lines(tmp_path / "completions/rank-0.jsonl", [{"step": 1}, row(1, 0, "a"), {"x": 1}])
    notes = []
    assert len(read_training(tmp_path, PLENTY, notes)) == 1
    assert notes == ["completions/rank-0.jsonl: 2 line(s) without step or completion left out."]


def test_a_very_long_text_loses_its_middle(tmp_path):
    text = "a" * 50_000 + "z"
    write_lines(tmp_path / "completions/rank-0.jsonl", [row(1, 0, text)])
    (group,) = read_training(tmp_path, PLENTY, [])
    shown = group["completions"][0]["text"]
    assert len(shown) < 41_000
    assert shown.endswith("az")
    assert "10,001 characters left out" in shown


def test_evaluations_are_read_by_stage_and_step_the_last_of_equals(tmp_path):
    folder = tmp_path / "evaluations"
    write_lines(folder / "validation-step-00000020.jsonl", [problem("p", "later")])
    write_lines(folder / "validation-step-00000000.jsonl", [problem("p", "first")])
    write_lines(folder / "validation-step-00000000-2.jsonl", [problem("p", "again", "again")])
    write_lines(folder / "test-step-00000020.jsonl", [problem("q", "test")])
    write_lines(folder / "notes.jsonl", [problem("q", "no evaluation")])
    groups = read_evaluations(evaluation_files(tmp_path, []), PLENTY, [])
    found = [(g["source"], g["step"], g["completions"][0]["text"]) for g in groups]
    assert found == [
        ("test", 20, "test"),
        ("validation", 0, "again"),
        ("validation", 20, "later"),
    ]
    assert groups[1]["completions"][0]["count"] == 2
    assert groups[1]["completions"][0]["truncated"] is True


def test_sampled_problems_are_the_same_at_every_step(tmp_path):
    for step in (0, 10, 20):
        problems = [problem(f"problem {place:03}", "text") for place in range(100)]
        write_lines(tmp_path / f"evaluations/validation-step-{step:08}.jsonl", problems)
    notes = []
    line = len(json.dumps(problem("problem 000", "text"))) + 1
    groups = read_evaluations(evaluation_files(tmp_path, notes), 3 * 10 * line, notes)
    prompts = {step: [g["prompt"] for g in groups if g["step"] == step] for step in (0, 10, 20)}
    assert len(prompts[0]) == 10
    assert prompts[0] == prompts[10] == prompts[20]
    assert notes == [
        "Evaluated problems: 10 of 100, the same at every step, to keep the page small."
    ]


def test_of_very_many_evaluations_some_are_shown(tmp_path):
    for step in range(50):
        write_lines(tmp_path / f"evaluations/validation-step-{step:08}.jsonl", [problem("p", "t")])
    notes = []
    groups = read_evaluations(evaluation_files(tmp_path, notes), PLENTY, notes)
    assert len(groups) == 30
    assert (groups[0]["step"], groups[-1]["step"]) == (0, 49)
    assert notes == ["Evaluated problems are those of 30 of 50 evaluations."]
