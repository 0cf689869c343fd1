import json

import datasets
import pytest

from lgrpo_lightning.data.files import read_files

ROWS = [{"prompt": "a", "answer": 1}, {"prompt": "ü", "answer": 2.5}]


@pytest.fixture
def write(tmp_path):
    def to(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines(ROWS)),
        ("a.json", lines(ROWS)),
        ("A.JSONL", "\n" + lines(ROWS) + "\n\n"),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.jsonl", "\ufeff" + lines(ROWS)),
        ("a.jsonl", lines(ROWS).replace("\n", "\r\n")),
    ],
)
def test_json(write, name, content):
    assert read_files([write(name, content)]) == ROWS


def test_unusual_line_separators_inside_a_text_do_not_end_the_line(write):
    row = {"prompt": "a\u2028b\x85c"}
    assert read_files([write("a.jsonl", lines([row]))]) == [row]


def test_csv_is_text(write):
    path = write("a.csv", 'prompt,answer\n"two\nlines, one field",007\n')
    assert read_files([path]) == [{"prompt": "two\nlines, one field", "answer": "007"}]


def test_parquet(tmp_path):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    datasets.Dataset.from_list(ROWS).to_parquet(paths[0])
    datasets.Dataset.from_list([{"prompt": "c", "extra": "x"}]).to_parquet(paths[1])
    table = read_files(paths)
    assert table["prompt"][:] == ["a", "ü", "c"]
    assert table["extra"][:] == [None, None, "x"]


def test_several_files_are_one_table(write):
    paths = [write("b.jsonl", lines(ROWS)), write("a.csv", "prompt\nc\n")]
    assert read_files(paths) == [*ROWS, {"prompt": "c"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", lines(ROWS) + '{"prompt": \n', r"a\.jsonl, line 3: broken JSON"),
        ("a.jsonl", lines(ROWS) + "[1]\n", r"a\.jsonl, line 3: a list where an object"),
        ("a.json", json.dumps(ROWS[0], indent=2), r"a\.json, line 1: .*one JSON object"),
        ("a.json", "[{}, 3]", r"a\.json, element 1: a int where an object"),
        ("a.json", "[{},\n {]", r"a\.json, line 2: broken JSON"),
        ("a.jsonl", lines(ROWS).encode("latin-1"), r"a\.jsonl, line 2: not UTF-8 \(byte 0xfc\)"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"a\.csv, line 3: more or fewer fields"),
        ("a.csv", "a,b\n1\n", r"a\.csv, line 2: more or fewer fields"),
        ("a.csv", "a,a\n1,2\n", r"names a column twice"),
        ("a.csv", 'a\n"x"y\n', r"a\.csv, line 2: broken CSV"),
        ("a.parquet", "PAR", r"a\.parquet is not a Parquet file"),
        ("a.txt", "x", r"files of kind '\.txt' are not read"),
    ],
)
def test_broken_files_are_named(write, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_files([write(name, content)])


def test_kinds_that_do_not_mix(write, tmp_path):
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="Parquet does not mix"):
        read_files([tmp_path / "a.parquet", write("a.jsonl", lines(ROWS))])


def test_parquet_files_with_different_types(tmp_path):
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, answer in zip(paths, (1, "one"), strict=True):
        datasets.Dataset.from_list([{"answer": answer}]).to_parquet(path)
    with pytest.raises(ValueError, match="have different types"):
        read_files(paths)
