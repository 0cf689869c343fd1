import json
from pathlib import Path

import pytest

from lgrpo_lightning.study.method_report import FIGURES, MethodRuns, steps_to
from lgrpo_lightning.study.methods import MethodStudy
from lgrpo_lightning.study.tree_cost import RolloutShape

ROOT = Path(__file__).parents[2]
SHAPE = RolloutShape(prompts=2, group_size=4, length=5)


def study(**changes):
    settings = {
        "configs": [str(ROOT / "configs/quickstart.yaml")],
        "methods": {
            "GRPO": {"model.loss.process_set_scaling": False},
            "λ-GRPO": {"model.loss.process_set_scaling": True},
        },
        "seeds": 2,
        "levels": [0.5],
        "rollout": SHAPE,
    }
    return MethodStudy(**settings | changes)


def record(accuracies, speed=80.0):
    values = {"train/length": 5.0, "train/tokens_per_second": speed}
    curves = {name: [[step, values.get(name, 0.3)] for step in (1, 2)] for name in FIGURES}
    curves["eval/pass@1"] = [[10 * place, value] for place, value in enumerate(accuracies)]
    return {"curves": curves, "tree_seconds": 0.01}


def test_step_of_a_level_is_between_evaluations():
    curve = [[0, 0.2], [10, 0.4], [20, 0.8]]
    assert steps_to(curve, 0.3) == pytest.approx(5.0)
    assert steps_to(curve, 0.4) == 10
    assert steps_to(curve, 0.5) == pytest.approx(12.5)
    assert steps_to(curve, 0.1) == 0
    assert steps_to(curve, 0.9) == 20


def test_measures_by_hand():
    runs = MethodRuns({"GRPO": [record([0.2, 0.9, 0.7])]}, [0.55], SHAPE)
    assert runs.measures("GRPO") == {
        "steps to 0.55": [pytest.approx(5.0)],
        "mean over all steps": [pytest.approx(0.6)],
        "peak": [0.9],
        "final": [0.7],
    }
    # 8 completions of 5 tokens at 80 tokens a second.
    assert runs.tree_share() == (0.01, 0.5)


def test_report(tmp_path):
    pytest.importorskip("matplotlib")
    accuracies = [(0.2, 0.8), (0.2, 0.6), (0.2, 0.9), (0.2, 0.7)]
    text = study().report([record(values) for values in accuracies], tmp_path)
    assert "| final               | 0.850 [0.215, 1.000]" in text  # no share is above 1
    assert "-0.200" in text
    assert "10.0 ms of a step of 500 ms, 2.00 %" in text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["measures"]["λ-GRPO"]["final"] == [0.6, 0.7]
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_methods_have_the_same_seeds(tmp_path):
    jobs = study().jobs(tmp_path, print)
    assert [job.name for job in jobs] == [
        *("GRPO_seed-0", "λ-GRPO_seed-0", "GRPO_seed-1", "λ-GRPO_seed-1")
    ]
    assert [job.key["options"]["seed_everything"] for job in jobs] == [0, 0, 1, 1]


def test_trees_are_timed():
    assert 0 < SHAPE.tree_seconds() < 1


@pytest.mark.parametrize(
    ("change", "name"), [({"seeds": 0}, "seeds"), ({"methods": {"GRPO": {}}}, "methods")]
)
def test_nothing_to_compare_is_refused(change, name):
    with pytest.raises(ValueError, match=name):
        study(**change)
