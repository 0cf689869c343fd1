import pytest

from lgrpo_lightning.report.curves import read_curves


def curves(tmp_path, text, evaluated=(), max_numbers=10_000):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    notes = []
    tables = read_curves(path, set(evaluated), max_numbers, notes)
    found = {name: (table["x"], y) for table in tables for name, y in table["y"].items()}
    return found, notes


def test_steps_are_optimizer_steps_done(tmp_path):
    found, notes = curves(
        tmp_path,
        "epoch,eval/reward,step,train/reward\n"
        ",0.25,0,\n"  # before training
        "0,,0,0.3\n"  # the first step
        "0,,1,0.5\n"
        "0,0.75,1,\n",  # after the second
    )
    assert found["eval/reward"] == ([0, 2], [0.25, 0.75])
    assert found["train/reward"] == ([1, 2], [0.3, 0.5])
    assert notes == []


def test_an_evaluation_inside_an_accumulation_has_the_step_of_its_file(tmp_path):
    text = "epoch,eval/reward,step\n0,0.5,10\n0,0.6,19\n"
    found, _ = curves(tmp_path, text, evaluated=[10, 20])
    assert found["eval/reward"] == ([10, 20], [0.5, 0.6])


def test_the_evaluation_of_a_checkpoint_has_the_step_of_its_file(tmp_path):
    found, _ = curves(tmp_path, "epoch,eval/reward,step\n0,0.5,0\n", evaluated=[40])
    assert found["eval/reward"] == ([40], [0.5])


def test_columns_with_the_same_steps_share_a_table(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,a,b,c\n0,0,1,2,\n0,1,3,4,5\n")
    tables = read_curves(path, set(), 100, [])
    assert sorted(sorted(table["y"]) for table in tables) == [["a", "b"], ["c"]]


def test_values_that_are_no_numbers_are_gaps_and_named_but_nan(tmp_path):
    text = "epoch,step,a,b,c\n0,0,1,nan,inf\n0,1,nan,2,3\n0,2,x,3,4\n"
    found, notes = curves(tmp_path, text)
    assert found["a"] == ([1, 2, 3], [1, None, None])
    assert found["b"] == ([1, 2, 3], [None, 2, 3])
    assert found["c"] == ([1, 2, 3], [None, 3, 4])
    assert notes == ["metrics.csv: values that are no numbers in a, c."]


def test_damaged_rows_are_left_out_and_said(tmp_path):
    found, notes = curves(tmp_path, "epoch,step,a\n0,0,1\n0,1\n0,x,1\n0,2,3,4,5\n0,3,9\n0,4,1")
    assert found["a"] == ([1, 4], [1, 9])
    assert notes == [
        "metrics.csv: the last row is half written and left out.",
        "metrics.csv: 3 damaged row(s) left out.",
    ]


@pytest.mark.parametrize(("text", "note"), [("", "empty"), ("a,b\n1,2\n", "no column step")])
def test_a_file_without_steps_gives_no_curves(tmp_path, text, note):
    found, notes = curves(tmp_path, text)
    assert found == {}
    assert note in notes[0]


def test_a_missing_file_is_said(tmp_path):
    notes = []
    assert read_curves(tmp_path / "metrics.csv", set(), 100, notes) == []
    assert "metrics.csv is missing" in notes[0]


def test_of_two_values_for_a_step_the_later_counts(tmp_path):
    found, _ = curves(tmp_path, "epoch,step,a\n0,1,1\n0,0,2\n0,1,3\n")
    assert found["a"] == ([1, 2], [2, 3])


def test_long_curves_become_means_and_short_ones_stay(tmp_path):
    rows = "".join(f"0,{step},{step},{'7' if step == 50 else ''}\n" for step in range(100))
    found, notes = curves(tmp_path, "epoch,step,a,b\n" + rows, max_numbers=50)
    assert found["a"][0] == list(range(4, 101, 4))
    assert found["a"][1][:2] == [1.5, 5.5]
    assert found["b"] == ([51], [7])
    assert "means of up to 4" in notes[0]
