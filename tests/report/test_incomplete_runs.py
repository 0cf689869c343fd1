import json
import re
import shutil

import pytest

from lgrpo_lightning.report import write_report
from tests.report.made_runs import make_run

PARTS = {
    "config.yaml": "settings",
    "metrics.csv": "curves",
    "evaluations": "groups",
    "completions": "groups",
    "trees": "trees",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "whole", steps=6, trees=3)


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def report(run):
    page = write_report([run]).read_bytes().decode()
    data = re.search(r'<script type="application/json" id="data">(.*)</script>\n', page)
    (found,) = json.loads(data[1])["runs"]
    return found


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def test_a_whole_run_has_everything_and_no_notes(run):
    found = report(run)
    assert found["notes"] == []
    assert all(found[part] for part in PARTS.values())
    assert {group["source"] for group in found["groups"]} == {"training", "validation"}


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_part_is_said_and_the_rest_is_shown(run, name):
    remove(run / name)
    found = report(run)
    (note,) = found["notes"]
    assert re.match(rf"{name}/? is missing", note)
    assert all(found[part] for part in set(PARTS.values()) - {PARTS[name]})


@pytest.mark.parametrize("name", PARTS)
def test_one_part_alone_makes_a_report(run, name):
    for other in set(PARTS) - {name}:
        remove(run / other)
    found = report(run)
    assert len(found["notes"]) == len(PARTS) - 1
    assert found[PARTS[name]]


@pytest.mark.parametrize("share", [0.3, 0.71, 0.98])
def test_a_run_that_was_cut_off_anywhere_shows_what_is_whole(run, share):
    files = [path for path in run.rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
    found = report(run)
    half_written = [note for note in found["notes"] if "half written" in note]
    assert len(half_written) >= 3
    assert found["curves"]
    assert found["groups"]
    assert found["trees"]


def test_empty_files_are_said(run):
    for path in run.rglob("*.*"):
        if path.is_file():
            path.write_bytes(b"")
    found = report(run)
    assert any("metrics.csv is empty" in note for note in found["notes"])
    assert (found["curves"], found["groups"], found["trees"]) == ([], [], [])
