import os

import pytest

from lgrpo_lightning.report import writer
from lgrpo_lightning.report.run import run_names
from lgrpo_lightning.report.writer import write_report
from tests.report.made_runs import make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "name"
    return [make_run(folder / f"run-{seed}", steps=4, trees=2, seed=seed) for seed in range(2)]


def test_the_report_of_a_run_lies_in_its_folder(made):
    assert write_report([made[0]]) == made[0] / "report.html"
    assert (made[0] / "report.html").read_bytes().startswith(b"<!doctype html>")


def test_the_report_of_several_runs_lies_in_the_folder_that_holds_them(made):
    assert write_report(made) == made[0].parent / "report.html"
    assert b"name/run-0, name/run-1" in (made[0].parent / "report.html").read_bytes()


def test_a_report_of_the_same_runs_is_replaced(made, tmp_path):
    out = tmp_path / "a" / "report.html"
    write_report([made[0]], out)
    first = out.stat().st_ino
    write_report([os.path.relpath(made[0])], out)
    assert out.stat().st_ino != first
    assert sorted(path.name for path in out.parent.iterdir()) == ["report.html"]


def test_a_report_of_other_runs_is_not_replaced(made, tmp_path):
    out = tmp_path / "report.html"
    write_report([made[0]], out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=r"report.html is the report of other runs.*--out"):
        write_report([made[1]], out)
    assert out.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"something else"])
def test_any_other_file_is_not_replaced(made, tmp_path, content):
    out = tmp_path / "notes.html"
    out.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes.html exists and is no report.*--out"):
        write_report([made[0]], out)
    assert out.read_bytes() == content


def test_a_folder_is_no_place_for_a_report(made, tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        write_report([made[0]], tmp_path)


def test_a_failed_write_leaves_the_old_report(made, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    write_report([made[0]], out)
    before = out.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(writer.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report([made[0]], out)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_page_does_not_tell_where_the_runs_lie(made):
    assert str(made[0].parents[1]).encode() not in write_report([made[0]]).read_bytes()


def test_folders_that_are_no_runs_are_refused(made, tmp_path):
    with pytest.raises(ValueError, match="missing is not a folder"):
        write_report([tmp_path / "missing"])
    with pytest.raises(ValueError, match="holds no run"):
        write_report([tmp_path])
    with pytest.raises(ValueError, match="given twice"):
        write_report([made[0], made[0] / ".." / made[0].name])
    with pytest.raises(ValueError, match="at least one"):
        write_report([])


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [tmp_path / owner / "name" / "date" for owner in ("a", "b")]
    assert run_names(folders) == ["a/name/date", "b/name/date"]
    assert run_names(folders[:1]) == ["name/date"]
