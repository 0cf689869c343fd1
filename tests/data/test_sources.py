import json

import datasets
import pytest

from lgrpo_lightning.data.sources import download, load_table, short_name

ROWS = [{"prompt": "a", "answer": 1}, {"prompt": "b"}]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory, to be filled with files that have one row each: their name."""
    monkeypatch.chdir(tmp_path)

    def fill(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"prompt": name}) + "\n")
        return tmp_path

    return fill


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds one set, or raises what it is told to."""

    def install(error=None):
        requests = []

        def load_dataset(path, name=None, split=None):
            requests.append((path, name, split))
            if error is not None:
                raise error
            sets = {key: datasets.Dataset.from_list([{"prompt": key}]) for key in ("train", "test")}
            return datasets.DatasetDict(sets) if split is None else sets["train"]

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return requests

    return install


def prompts(*arguments, **options):
    return load_table(*arguments, **options).column("prompt")


def test_rows_in_memory():
    table = load_table(ROWS)
    assert (len(table), table.names) == (2, ("prompt", "answer"))
    assert table.take([1, 0], ["prompt", "answer"]) == {"prompt": ["b", "a"], "answer": [None, 1]}
    assert len(table.head(1)) == 1


def test_a_data_set_in_memory_gives_plain_values():
    table = load_table(datasets.Dataset.from_list([{"prompt": "a", "n": 1}]).with_format("torch"))
    assert table.take([0], ["n", "n"]) == {"n": [1]}
    assert type(table.column("n")[0]) is int
    assert len(table.head(5)) == 1


def test_files_globs_and_lists(folder):
    folder("d/a.jsonl", "d/b.jsonl", "e/c.jsonl")
    assert prompts("d/a.jsonl") == ["d/a.jsonl"]
    assert prompts("d/*.jsonl") == ["d/a.jsonl", "d/b.jsonl"]
    assert prompts(["e/c.jsonl", "d/a*"]) == ["e/c.jsonl", "d/a.jsonl"]
    assert prompts("**/*.jsonl") == ["d/a.jsonl", "d/b.jsonl", "e/c.jsonl"]


def test_an_edited_file_is_seen(folder):
    path = folder("a.jsonl") / "a.jsonl"
    before = path.stat()
    assert prompts("a.jsonl") == ["a.jsonl"]
    path.write_text(path.read_text().replace("a.jsonl", "b.jsonl"))
    assert path.stat().st_size == before.st_size
    assert prompts("a.jsonl") == ["b.jsonl"]


def test_the_split_of_a_file_is_in_its_name(folder):
    folder("test.jsonl", "other.jsonl")
    assert prompts("test.jsonl") == prompts("test.jsonl", split="test") == ["test.jsonl"]
    assert prompts("other.jsonl", split="train") == ["other.jsonl"]
    with pytest.raises(ValueError, match=r"'test.jsonl' has no split 'train'; there is: test"):
        load_table("test.jsonl", split="train")


def test_a_folder_with_files_has_the_splits_that_their_names_say(folder):
    folder("d/train-00000-of-00001.jsonl", "d/my_test.jsonl", "d/dev/x.jsonl", "d/README.json")
    assert prompts("d") == ["d/train-00000-of-00001.jsonl"]
    assert prompts("d", split="test") == ["d/my_test.jsonl"]
    assert prompts("d", split="validation") == ["d/dev/x.jsonl"]
    with pytest.raises(ValueError, match="several splits; choose one: validation, test, train"):
        load_table("d", default=None)


def test_a_folder_whose_files_name_no_split_is_one(folder):
    folder("d/b.jsonl", "d/a.jsonl")
    assert prompts("d") == ["d/a.jsonl", "d/b.jsonl"]


def test_saved_data_sets(tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "two")
    assert prompts(str(tmp_path / "one")) == ["a", "b"]
    assert prompts(str(tmp_path / "two")) == ["a", "b"]
    assert prompts(str(tmp_path / "two"), split="test") == ["b"]
    with pytest.raises(ValueError, match="has no split 'dev'; there is: train, test"):
        load_table(str(tmp_path / "two"), split="dev")


def test_sets_on_the_hub(folder, hub):
    folder()
    requests = hub()
    assert prompts("openai/gsm8k", "main") == ["train"]
    assert prompts("openai/gsm8k", "main", "test") == ["test"]
    assert prompts("openai/gsm8k", split="train[:10%]") == ["train"]
    download("openai/gsm8k", "main")
    assert [split for *_, split in requests] == [None, None, "train[:10%]", None]
    with pytest.raises(ValueError, match=r"'gsm8k' has no split 'dev'; there is: train, test"):
        load_table("gsm8k", split="dev")


def test_what_is_local_is_not_looked_for_on_the_hub(folder, hub):
    folder("openai/gsm8k/train.jsonl")
    requests = hub()
    assert prompts("openai/gsm8k") == ["openai/gsm8k/train.jsonl"]
    download("openai/gsm8k")
    assert requests == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("Couldn't reach it"), "and the hub was not reached: Couldn't reach it"),
        (FileNotFoundError("doesn't exist"), "and that failed: doesn't exist"),
        (ValueError("BuilderConfig 'x' not found"), "and that failed: BuilderConfig 'x' not found"),
    ],
)
def test_failures_of_the_hub_are_told(folder, hub, error, message):
    folder()
    hub(error)
    with pytest.raises(ValueError, match=message) as caught:
        load_table("openai/gsm8k")
    assert "no file or folder here" in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data/train.jsonl", "no file or folder 'data/train.jsonl'.*and it is no name"),
        ("./data", "no file or folder './data'"),
        ("data/*.jsonl", "no file 'data/\\*.jsonl'"),
        (["x.jsonl"], "no file 'x.jsonl'"),
        (".", "holds no data"),
        ([{"prompt": "a"}, "b"], "row 1 is no dictionary with text keys: 'b'"),
        ([{1: "a"}], "row 0 is no dictionary with text keys"),
        (3, "a int is no source of prompts"),
    ],
)
def test_sources_that_are_not_there(folder, source, message):
    folder()
    with pytest.raises(ValueError, match=message):
        load_table(source)


def test_a_configuration_is_for_the_hub(folder):
    folder("a.jsonl")
    with pytest.raises(ValueError, match=r"name is 'main', but 'a\.jsonl' is not on the hub"):
        load_table("a.jsonl", "main")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/gsm8k/test.jsonl", "gsm8k"),
        ("data/gsm8k/train-00000-of-00002.parquet", "gsm8k"),
        ("data/gsm8k/*.jsonl", "gsm8k"),
        ("data/gsm8k_test.jsonl", "gsm8k_test"),
        ("data/2024.jsonl", "2024"),
        ("openai/gsm8k", "gsm8k"),
        (["data/aime/test.jsonl", "data/amc/test.jsonl"], "aime"),
        (ROWS, "memory"),
    ],
)
def test_short_names(source, name):
    assert short_name(source) == name
