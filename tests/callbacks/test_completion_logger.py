import shutil
import sys

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lgrpo_callbacks import CompletionLogger, read_jsonl
from lgrpo_callbacks.tables import format_markdown, format_table, shorten
from lgrpo_callbacks.terminal import completion_table
from tests.callbacks.boring import BoringPolicy, FakeWandbLogger, make_trainer


def history(folder, rank=0):
    return read_jsonl(folder / f"rank-{rank}.jsonl")


def test_the_history_has_every_completion_once_with_its_optimizer_step(tmp_path):
    module = BoringPolicy(rows=10, batch_size=2)
    make_trainer(tmp_path, CompletionLogger(), accumulate_grad_batches=2).fit(module)
    rows = history(tmp_path / "completions")
    assert [row["prompt"] for row in rows] == [f"prompt {index}" for index in range(10)]
    assert [row["step"] for row in rows] == [1] * 4 + [2] * 4 + [3] * 2
    assert rows[5] == {
        "step": 2,
        "rank": 0,
        "prompt": "prompt 5",
        "completion": "completion 5\nsecond line",
        "reward": module.rewards[5].item(),
        "advantage": module.advantages[5].item(),
        "group": 1,
        "length": module.lengths[5].item(),
        "truncated": module.lengths[5].item() == 8,
        "reward_breakdown": {"exact": module.rewards[5].item()},
    }


def test_a_module_without_groups_and_lengths_can_be_logged(tmp_path):
    module = BoringPolicy(rows=2)
    module.left_out = ("group", "lengths", "truncated", "reward_breakdown")
    make_trainer(tmp_path, CompletionLogger()).fit(module)
    assert set(history(tmp_path / "completions")[0]) == {
        "step",
        "rank",
        "prompt",
        "completion",
        "reward",
        "advantage",
    }


def test_another_run_in_the_same_folder_gets_a_history_of_its_own(tmp_path):
    logger = CompletionLogger()
    for _ in range(2):
        make_trainer(tmp_path, logger).fit(BoringPolicy(rows=4))
    assert history(tmp_path / "completions") == history(tmp_path / "completions-2")
    assert len(history(tmp_path / "completions")) == 4


def fit_and_save(folder, logger):
    saver = ModelCheckpoint(
        folder / "saved", filename="{step}", every_n_train_steps=1, save_top_k=-1
    )
    trainer = make_trainer(
        folder, CompletionLogger(), saver, enable_checkpointing=True, logger=logger
    )
    trainer.fit(BoringPolicy(rows=8))
    return folder / "saved" / "step=2.ckpt"


def test_a_resumed_run_in_the_same_folder_has_no_step_twice(tmp_path):
    ckpt = fit_and_save(tmp_path, logger=False)
    whole = history(tmp_path / "completions")
    with (tmp_path / "completions" / "rank-0.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "pro')  # the run was killed
    logger = CompletionLogger()
    make_trainer(tmp_path, logger).fit(BoringPolicy(rows=8), ckpt_path=ckpt, weights_only=True)
    assert logger.folder == tmp_path / "completions"
    # The data loader is not resumable and starts over, so only steps are compared.
    assert [row["step"] for row in history(logger.folder)] == [row["step"] for row in whole]
    assert history(logger.folder)[:4] == whole[:4]
    assert not (tmp_path / "completions-2").exists()


def test_a_resumed_run_with_a_folder_of_its_own_takes_the_history_along(tmp_path):
    ckpt = fit_and_save(tmp_path, logger=CSVLogger(tmp_path, version=0))
    first = tmp_path / "lightning_logs" / "version_0" / "completions"
    whole = history(first)
    shutil.copy(first / "rank-0.jsonl", first / "rank-3.jsonl")  # of a rank that is no more
    trainer = make_trainer(tmp_path, CompletionLogger(), logger=CSVLogger(tmp_path, version=1))
    trainer.fit(BoringPolicy(rows=8), ckpt_path=ckpt, weights_only=True)
    second = tmp_path / "lightning_logs" / "version_1" / "completions"
    assert [row["step"] for row in history(second)] == [row["step"] for row in whole]
    assert history(second, rank=3) == whole[:4]
    assert history(first) == whole


def test_a_resumed_run_whose_history_is_gone_says_so(tmp_path):
    ckpt = fit_and_save(tmp_path, logger=False)
    shutil.rmtree(tmp_path / "completions")
    with pytest.warns(UserWarning, match="no longer at .*begins at optimizer step 3"):
        make_trainer(tmp_path, CompletionLogger()).fit(
            BoringPolicy(rows=8), ckpt_path=ckpt, weights_only=True
        )
    assert [row["step"] for row in history(tmp_path / "completions")] == [3, 3, 4, 4]


def test_a_table_is_printed_at_its_cadence_when_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.table", None)  # plain text, as without rich
    module = BoringPolicy(rows=8, batch_size=2)
    logger = CompletionLogger(every_n_steps=3, max_rows=1, to_terminal=True)
    make_trainer(tmp_path, logger).fit(module)
    lines = [line for line in capsys.readouterr().out.splitlines() if "prompt" in line]
    assert lines[0].split() == [
        "step", "group", "reward", "advantage", "length", "prompt", "completion",
    ]  # fmt: skip
    assert lines[1].split()[:3] == ["3", "1", f"{module.rewards[4]:.3f}"]
    assert lines[1].endswith("prompt 4  completion 4 second line")
    assert len(lines) == 2


def test_with_rich_texts_are_wrapped_and_brackets_are_text(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "90")
    row = {"step": 3, "reward": 1.0, "advantage": 0.5, "prompt": "p", "completion": "[red]" * 50}
    lines = completion_table([row]).splitlines()
    assert max(map(len, lines)) <= 90
    text = "".join(line.split("│")[-2].strip() for line in lines if line.startswith("│"))
    assert text == "[red]" * 50


def test_nothing_is_printed_unless_asked(tmp_path, capsys):
    make_trainer(tmp_path, CompletionLogger(every_n_steps=1)).fit(BoringPolicy(rows=4))
    assert "completion" not in capsys.readouterr().out


def test_tables_go_to_tensorboard_and_wandb(tmp_path):
    board, wandb = TensorBoardLogger(tmp_path), FakeWandbLogger()
    logger = CompletionLogger(every_n_steps=2, max_rows=1)
    make_trainer(tmp_path, logger, logger=[board, wandb]).fit(BoringPolicy(rows=8))
    events = EventAccumulator(board.log_dir)
    events.Reload()
    texts = events.Tensors("completions/text_summary")
    assert [event.step for event in texts] == [2, 4]
    text = texts[0].tensor_proto.string_val[0].decode()
    assert text.startswith("| step | group | reward |")
    assert "prompt 2 | completion 2 second line |" in text
    assert [(key, step) for key, _, _, step in wandb.tables] == [
        ("completions", 2),
        ("completions", 4),
    ]
    _, columns, data, _ = wandb.tables[0]
    assert dict(zip(columns, data[0], strict=True))["completion"] == "completion 2\nsecond line"
    assert len(data) == 1


@pytest.mark.parametrize("key", ["prompts", "completions", "rewards", "advantages"])
def test_a_missing_key_is_named_with_the_method_that_must_return_it(tmp_path, key):
    module = BoringPolicy()
    module.left_out = (key,)
    with pytest.raises(ValueError, match=f"CompletionLogger needs '{key}' .*training_step"):
        make_trainer(tmp_path, CompletionLogger()).fit(module)


def test_columns_of_another_size_are_refused(tmp_path):
    module = BoringPolicy()
    module.extra = {"prompts": ["one"]}
    with pytest.raises(ValueError, match=r"prompts .* each of the 2 completions, got 1"):
        make_trainer(tmp_path, CompletionLogger()).fit(module)


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"max_rows": 0}, {"dirname": ""}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        CompletionLogger(**options)


def test_tables_are_aligned_and_texts_shortened_in_the_middle():
    assert format_table(["a", "long"], [["xyz", "1"]]) == "a    long\n---  ----\nxyz  1"
    assert format_markdown(["a"], [["x|y\nz"]]) == "| a |\n| --- |\n| x\\|y z |"
    assert shorten("one \n two", 10) == "one two"
    assert shorten("0123456789", 5) == "01…89"
    assert len(shorten("word " * 100, 60)) == 60


def test_two_with_folders_of_their_own_work_side_by_side(tmp_path):
    loggers = [CompletionLogger(dirname=name) for name in ("one", "two")]
    make_trainer(tmp_path, *loggers).fit(BoringPolicy(rows=4))
    assert history(tmp_path / "one") == history(tmp_path / "two")
    assert len(history(tmp_path / "one")) == 4
