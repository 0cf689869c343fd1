import json

import pytest

from lgrpo_callbacks.jsonl import (
    append_jsonl,
    copy_until_step,
    cut_after_step,
    make_new_folder,
    read_jsonl,
    write_new_jsonl,
)


def test_any_text_survives_a_round_trip_on_one_line(tmp_path):
    texts = ["a\nb\r\nc", "\u2028 line separator", "λ 字 🙂", "half \ud83d emoji", '"quoted" \\n']
    path = tmp_path / "x.jsonl"
    append_jsonl(path, [{"step": 1, "text": text} for text in texts])
    assert [record["text"] for record in read_jsonl(path)] == texts
    assert path.read_bytes().count(b"\n") == len(texts)
    assert "λ 字 🙂" in path.read_text(encoding="utf-8")


def test_nan_and_infinity_become_null_at_any_depth(tmp_path):
    path = tmp_path / "x.jsonl"
    append_jsonl(path, [{"a": float("nan"), "b": {"c": [float("inf"), 1.0]}}])
    assert read_jsonl(path) == [{"a": None, "b": {"c": [None, 1.0]}}]


@pytest.mark.parametrize("kept_bytes", range(1, 12))
def test_a_half_written_last_line_is_left_out(tmp_path, kept_bytes):
    path = tmp_path / "x.jsonl"
    append_jsonl(path, [{"step": 1}])
    with path.open("ab") as file:
        file.write(b'{"step": 2}\n'[:kept_bytes])
    assert read_jsonl(path) == [{"step": 1}]


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl, line 2"):
        read_jsonl(path)


def test_a_history_is_cut_after_a_step_and_so_is_its_half_line(tmp_path):
    path = tmp_path / "x.jsonl"
    append_jsonl(path, [{"step": 1}, {"step": 2}, {"step": 2}, {"step": 3}])
    with path.open("ab") as file:
        file.write(b'{"step": 4, "comple')
    copy_until_step(path, tmp_path / "copy.jsonl", 3)
    assert [record["step"] for record in read_jsonl(tmp_path / "copy.jsonl")] == [1, 2, 2, 3]
    cut_after_step(path, 2)
    append_jsonl(path, [{"step": 3}])
    assert [record["step"] for record in read_jsonl(path)] == [1, 2, 2, 3]


def test_a_new_file_never_replaces_another(tmp_path):
    path = tmp_path / "deep" / "x.jsonl"
    places = [write_new_jsonl(path, [{"number": number}]) for number in range(3)]
    assert [place.name for place in places] == ["x.jsonl", "x-2.jsonl", "x-3.jsonl"]
    assert [read_jsonl(place)[0]["number"] for place in places] == [0, 1, 2]
    assert len(list(path.parent.iterdir())) == 3


def test_a_file_that_could_not_be_finished_is_not_there(tmp_path):
    path = tmp_path / "x.jsonl"
    with pytest.raises(TypeError):
        write_new_jsonl(path, [{"bad": object()}])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "x.jsonl.tmp").write_text("of another process, unfinished")
    assert write_new_jsonl(path, [{}]).name == "x-2.jsonl"
    assert (tmp_path / "x.jsonl.tmp").read_text() == "of another process, unfinished"


def test_a_new_folder_is_new(tmp_path):
    names = [make_new_folder(tmp_path / "a" / "completions").name for _ in range(3)]
    assert names == ["completions", "completions-2", "completions-3"]


def test_keys_are_written_in_order(tmp_path):
    append_jsonl(tmp_path / "x.jsonl", [{"step": 1, "a": 2}])
    assert (tmp_path / "x.jsonl").read_text() == json.dumps({"step": 1, "a": 2}) + "\n"
