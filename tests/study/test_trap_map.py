import json

import pytest

from lgrpo_lightning.study.landscape import Trap
from lgrpo_lightning.study.tabular import TabularRun
from lgrpo_lightning.study.trap_map import Budget, TrapMap, tune_and_run
from lgrpo_lightning.study.trap_report import edges
from lgrpo_lightning.study.trap_table import TrapTable

SMALL = Budget(steps=20, tuning_runs=2, runs=2)


def trap_map(**changes):
    settings = {
        "learning_rates": {"SGD": [4.0, 16.0], "Adam": [0.1]},
        "depths": [1, 2],
        "group_sizes": [4, 8],
        "temperatures": [1.0, 2.0],
        "contrast_group_size": 4,
        "budget": SMALL,
    }
    return TrapMap(**settings | changes)


def test_every_cell_is_a_job_of_its_own(tmp_path):
    jobs = trap_map().jobs(tmp_path, print)
    # Per optimizer and depth: 2 group sizes, 1 more temperature, no trap; for 2 methods; and |λ|.
    assert len(jobs) == 2 * 2 * (2 * (2 + 1 + 1) + 1)
    assert len({json.dumps(job.key, sort_keys=True) for job in jobs}) == len(jobs)


def test_learning_rate_is_the_best_of_those_tried():
    cell = TabularRun(Trap(1, easy=0.0), "λ-GRPO", "SGD", 16, 1.0, steps=40)
    record = tune_and_run(cell, [0.001, 8.0], Budget(steps=40, tuning_runs=10, runs=20))
    assert [point["solved"] for point in record["tuning"]] == [0.0, 1.0]
    assert record["learning_rate"] == 8.0
    assert record["solved"] == record["runs"] == 20
    assert len(record["curve"]) == 4
    assert record["curve"][-1] == 1.0


def test_report_holds_every_cell_and_draws_the_map(tmp_path):
    pytest.importorskip("matplotlib")
    study = trap_map()
    records = [job.work() for job in study.jobs(tmp_path, print)]
    text = study.report(records, tmp_path)
    assert text.count("λ-GRPO") >= 8
    assert (tmp_path / "map.png").stat().st_size > 10_000
    assert len(json.loads((tmp_path / "map.json").read_text())) == len(records)
    assert (tmp_path / "map.md").read_text().strip() == text.strip()


def test_a_learning_rate_at_the_edge_is_told():
    cell = {
        **{"weighting": "GRPO", "optimizer": "SGD", "group_size": 4, "temperature": 1.0},
        "trap": {"depth": 2, "easy": 0.5},
    }
    tuning = [{"learning_rate": rate} for rate in (1.0, 2.0, 4.0)]
    records = [
        {"cell": cell, "tuning": tuning, "learning_rate": rate, "solved": solved, "runs": 9}
        for rate, solved in ((4.0, 5), (4.0, 9), (2.0, 5), (1.0, 0))
    ]
    text = edges(TrapTable(records, 1, 4))
    assert "In 1 of 4 cells" in text
    assert "(SGD, depth 2: 1)" in text
    assert edges(TrapTable(records[1:], 1, 4)).startswith("No best learning rate")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"temperatures": [2.0]}, "temperatures"),
        ({"contrast_group_size": 16}, "contrast_group_size"),
        ({"learning_rates": {"SGD": [2.0, 1.0]}}, "learning_rates"),
    ],
)
def test_bad_arguments_are_refused(change, name):
    with pytest.raises(ValueError, match=name):
        trap_map(**change)


def test_empty_budget_is_refused():
    with pytest.raises(ValueError, match="runs"):
        Budget(runs=0)
