import pytest

from lgrpo_lightning.study.training import TrainingRun, read_curves, train

METRICS = """\
epoch,step,train/reward,eval/pass@1
0,0,,0.25
0,0,0.5,
0,1,0.6,
0,1,,0.75
"""


def test_curves_count_the_steps_that_were_made(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    assert read_curves(path, ["train/reward", "eval/pass@1"]) == {
        "train/reward": [[1, 0.5], [2, 0.6]],
        "eval/pass@1": [[0, 0.25], [2, 0.75]],
    }
    with pytest.raises(ValueError, match=r"no figure 'train/loss'.*train/reward"):
        read_curves(path, ["train/loss"])


def test_command_line_names_configs_and_options():
    run = TrainingRun(["a.yaml", "b.yaml"], {"seed_everything": 3, "model.rewards": ["f"]}, [])
    assert run.arguments() == [
        *("fit", "-c", "a.yaml", "-c", "b.yaml"),
        *("--seed_everything=3", '--model.rewards=["f"]'),
    ]


def test_contents_leave_comments_out_and_name_a_missing_file(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("threads: 1  # of torch\n")
    assert TrainingRun([str(config)], {}, []).contents() == [{"threads": 1}]
    with pytest.raises(ValueError, match=r"missing\.yaml"):
        TrainingRun(["missing.yaml"], {}, []).contents()


def test_run_is_read_from_its_newest_folder(tmp_path):
    def lgrpo(arguments):
        assert arguments[-4:] == ["--runs", str(tmp_path), "--name", "one"]
        folder = tmp_path / "one" / "now"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(METRICS)

    record = train(lgrpo, TrainingRun([], {}, ["eval/pass@1"]), tmp_path, "one")
    assert record["curves"] == {"eval/pass@1": [[0, 0.25], [2, 0.75]]}
    assert record["seconds"] >= 0
    assert record["cpu_seconds"] >= 0


def test_failed_run_is_named(tmp_path):
    def lgrpo(arguments):
        raise SystemExit(1)

    with pytest.raises(RuntimeError, match=r"one failed: lgrpo fit -c a\.yaml"):
        train(lgrpo, TrainingRun(["a.yaml"], {}, []), tmp_path, "one")
