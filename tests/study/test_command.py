import json
from pathlib import Path

import pytest
import yaml

from lgrpo_lightning.cli import main as lgrpo
from lgrpo_lightning.study.command import _parser, main

ROOT = Path(__file__).parents[2]
STUDIES = [
    path for path in sorted((ROOT / "configs/studies").glob("*.yaml")) if "_run" not in path.name
]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_can_be_made(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    parser = _parser()
    options = parser.parse_args(["--config", str(path)])
    study = parser.instantiate_classes(options).study
    jobs = study.jobs(tmp_path, lgrpo)
    assert len({json.dumps(job.key, sort_keys=True) for job in jobs}) == len(jobs) > 10


def small_map(tmp_path):
    config = {
        "workers": 1,
        "study": {
            "class_path": "lgrpo_lightning.study.trap_map.TrapMap",
            "init_args": {
                "depths": [1],
                "group_sizes": [4],
                "temperatures": [1.0],
                "contrast_group_size": 4,
                "learning_rates": {"SGD": [4, 8]},
                "budget": {"steps": 10, "tuning_runs": 2, "runs": 2},
            },
        },
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_a_study_reports_into_a_folder_of_its_name(tmp_path, capfd):
    pytest.importorskip("matplotlib")
    lgrpo(["study", small_map(tmp_path), "--runs", str(tmp_path / "runs")])
    folder = tmp_path / "runs/studies/small"
    assert {path.name for path in folder.iterdir()} == {
        *("map.png", "map.md", "map.json", "results.jsonl", "output")
    }
    printed = capfd.readouterr()
    assert str(folder) in printed.out
    assert "[5/5]" in printed.err


def test_workers_are_checked(tmp_path):
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        main([small_map(tmp_path), "--workers", "0"], lgrpo)


@pytest.mark.slow
def test_binary_tree_runs_through_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "configs/studies/binary_tree_run.yaml").read_text())
    config["trainer"]["max_steps"] = 3
    run = tmp_path / "run.yaml"
    run.write_text(yaml.safe_dump(config))
    arguments = ["study", "configs/studies/binary_tree.yaml", "--runs", str(tmp_path)]
    for name, value in {"config": run, "shared": [1], "negative": [-1.0], "seeds": 1}.items():
        arguments += [f"--study.init_args.{name}", str(value)]
    lgrpo(arguments)
    table = (tmp_path / "studies/binary_tree/table.md").read_text()
    assert "| 1 | -1 " in table
    lines = (tmp_path / "studies/binary_tree/results.jsonl").read_text().splitlines()
    curves = [json.loads(line)["result"]["curves"] for line in lines]
    shares = [curve["train/rewards/exact_match_reward"] for curve in curves]
    assert [[step for step, _ in curve] for curve in shares] == [[1, 2, 3]] * 2
    # Both methods begin with the same policy and the same random numbers.
    assert shares[0][0] == shares[1][0]
