import csv
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CometLogger, CSVLogger, MLFlowLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lgrpo_callbacks import ProcessTreeMonitor, read_jsonl
from lgrpo_callbacks.images import log_image
from tests.callbacks.boring import FakeWandbLogger, make_trainer
from tests.callbacks.trees import GROUP_SIZE, ROWS, TreePolicy, tree_figures


def trees(folder, rank=0):
    return read_jsonl(folder / f"rank-{rank}.jsonl")


def members(module, group):
    return (module.group == group).nonzero().flatten().tolist()


def test_figures_of_every_optimizer_step_equal_an_account_by_loops(tmp_path):
    # Three micro-batches of four make a step, so groups are spread over steps, too.
    module = TreePolicy(rows=24, batch_size=4)
    monitor = ProcessTreeMonitor(max_trees=0)
    logger = CSVLogger(tmp_path, name="", version="")
    make_trainer(tmp_path, monitor, accumulate_grad_batches=3, logger=logger).fit(module)
    with (tmp_path / "metrics.csv").open() as file:
        logged = [
            {name: row[name] for name in row if "tree" in name} for row in csv.DictReader(file)
        ]
    wanted = [
        tree_figures(module, range(12), [0, 1]),
        tree_figures(module, range(12, 24), [2, 3, 4, 5]),
    ]
    assert wanted[0]["tree/zero_variance_groups"] == 0.5
    assert wanted[1]["tree/flat_groups"] == 0.5
    for got, figures in zip(logged, wanted, strict=True):
        assert {name: float(value) for name, value in got.items()} == pytest.approx(figures)


def test_groups_without_a_known_size_end_with_the_optimizer_step(tmp_path):
    module = TreePolicy(rows=16, batch_size=2)
    module.left_out = ("group_size",)
    trainer = make_trainer(tmp_path, ProcessTreeMonitor(every_n_steps=1), accumulate_grad_batches=4)
    trainer.fit(module)
    figures = tree_figures(module, range(8, 16), [2, 3])
    got = {n: v.item() for n, v in trainer.callback_metrics.items() if n.startswith("tree/")}
    assert got == pytest.approx(figures)
    assert [tree["group"] for tree in trees(tmp_path / "trees")] == [0, 1, 2, 3]


def test_a_group_spread_over_steps_needs_its_size(tmp_path):
    module = TreePolicy(rows=8, batch_size=2)
    module.left_out = ("group_size",)
    with pytest.raises(ValueError, match=r"completions with group 0 .* Return group_size"):
        make_trainer(tmp_path, ProcessTreeMonitor(every_n_steps=1)).fit(module)


def test_figures_that_no_group_has_are_nan_rather_than_old(tmp_path):
    module = TreePolicy(rows=12, batch_size=8)  # the last four rows are half of two groups
    trainer = make_trainer(tmp_path, ProcessTreeMonitor(max_trees=0))
    trainer.fit(module)
    assert trainer.callback_metrics["tree/flat_groups"].isnan()
    assert trainer.callback_metrics["tree/path_depth"] > 0


def test_trees_are_written_at_the_cadence_groups_that_teach_first(tmp_path):
    module = TreePolicy(rows=24, batch_size=8)
    monitor = ProcessTreeMonitor(every_n_steps=2, max_trees=1)
    make_trainer(tmp_path, monitor, max_epochs=2).fit(module)
    found = trees(tmp_path / "trees")
    # Steps 2, 4 and 6 train on rows 8-15, 0-7 and 16-23; group 1 has rewards without variance.
    assert [(tree["step"], tree["epoch"], tree["group"]) for tree in found] == [
        (2, 0, 2),
        (4, 1, 0),
        (6, 1, 4),
    ]
    assert sorted(path.name for path in (tmp_path / "trees").iterdir()) == [
        "rank-0.jsonl",
        "step-00000002.png",
        "step-00000004.png",
        "step-00000006.png",
    ]


def test_a_tree_that_is_due_while_no_group_is_whole_comes_with_the_next(tmp_path):
    module = TreePolicy(rows=16, batch_size=2)
    make_trainer(tmp_path, ProcessTreeMonitor(every_n_steps=5)).fit(module)
    # Step 5 has rows 8 and 9; their groups are whole with step 8.
    assert [(tree["step"], tree["group"]) for tree in trees(tmp_path / "trees")] == [(8, 2), (8, 3)]


def test_a_line_has_every_step_and_every_completion(tmp_path):
    module = TreePolicy(rows=8, batch_size=4)
    make_trainer(tmp_path, ProcessTreeMonitor(every_n_steps=1, picture=False)).fit(module)
    first, second = trees(tmp_path / "trees")
    assert [first["group"], second["group"]] == [0, 1]
    assert list(first) == [
        "step", "epoch", "prompt", "group", "group_size", "mean_reward", "std_reward", "nodes",
        "leaves",
    ]  # fmt: skip
    assert first["prompt"] == "prompt 0"
    rows = members(module, 0)
    rewards, advantages = module.rewards[rows], module.advantages[rows]
    assert first["group_size"] == GROUP_SIZE
    assert first["mean_reward"] == pytest.approx(rewards.mean().item())
    assert first["std_reward"] == pytest.approx(rewards.std().item())
    for node in first["nodes"]:
        assert list(node) == [
            "id", "parent", "depth", "tokens", "set_size", "members", "mean_reward", "advantage",
        ]  # fmt: skip
        row = rows[node["members"][0]]
        sets = [module.process_set(row, node["depth"] + t) for t in range(len(node["tokens"]))]
        assert sets == [[rows[member] for member in node["members"]]] * len(sets)
        assert node["set_size"] == len(node["members"])
        assert node["mean_reward"] == pytest.approx(rewards[node["members"]].mean().item())
        assert node["advantage"] == pytest.approx(advantages[node["members"]].mean().item())
    for number, leaf in enumerate(first["leaves"]):
        row = rows[number]
        assert leaf == {
            "completion": number,
            "node": leaf["node"],
            "reward": module.rewards[row].item(),
            "advantage": module.advantages[row].item(),
            "length": module.lengths[row].item(),
            "truncated": module.lengths[row].item() == 8,
        }
        assert number in first["nodes"][leaf["node"]]["members"]


def test_text_is_made_only_of_trees_that_are_written(tmp_path):
    class Counting:
        def __init__(self, lengths):
            self.lengths, self.asked = lengths, []

        def __getitem__(self, row):
            self.asked.append(row)
            return ["x"] * int(self.lengths[row])

    module = TreePolicy(rows=8, batch_size=8)
    texts = Counting(module.lengths)
    module.extra = {"token_texts": texts}
    monitor = ProcessTreeMonitor(every_n_steps=2, max_trees=1, picture=False)
    make_trainer(tmp_path, monitor).fit(module)
    assert texts.asked == []
    make_trainer(tmp_path, monitor, max_epochs=2).fit(module)
    assert texts.asked == members(module, 0)


def fit_and_save(folder, **options):
    saver = ModelCheckpoint(
        folder / "saved", filename="{step}", every_n_train_steps=1, save_top_k=-1
    )
    monitor = ProcessTreeMonitor(every_n_steps=1, picture=False)
    module = TreePolicy(rows=24, batch_size=4)
    make_trainer(folder, monitor, saver, enable_checkpointing=True, **options).fit(module)
    return folder / "saved"


def resume(folder, ckpt_path, **options):
    monitor = ProcessTreeMonitor(every_n_steps=1, picture=False)
    module = TreePolicy(rows=24, batch_size=4)
    # A loader that goes on where the checkpoint was made, as that of the suite does.
    done = int(ckpt_path.stem.removeprefix("step=")) * 4
    module.train_dataloader = lambda: torch.utils.data.DataLoader(
        torch.arange(done, 24), batch_size=4
    )
    trainer = make_trainer(folder, monitor, max_steps=6, **options)
    trainer.fit(module, ckpt_path=ckpt_path, weights_only=True)
    return trees(monitor.folder)


def test_a_resumed_run_has_no_tree_twice(tmp_path):
    saved = fit_and_save(tmp_path)
    whole = trees(tmp_path / "trees")
    assert [(tree["step"], tree["group"]) for tree in whole] == [
        (2, 0), (2, 1), (4, 2), (4, 3), (6, 4), (6, 5),
    ]  # fmt: skip
    with (tmp_path / "trees" / "rank-0.jsonl").open("ab") as file:
        file.write(b'{"step": 7, "pro')  # the run was killed
    found = resume(tmp_path, saved / "step=4.ckpt")
    # The resumed run is in its second epoch as far as Lightning can tell.
    assert [{**tree, "epoch": 0} for tree in found] == whole
    assert not (tmp_path / "trees-2").exists()


def test_a_group_cut_by_the_checkpoint_is_left_out_and_the_next_is_whole(tmp_path):
    saved = fit_and_save(tmp_path)
    found = resume(tmp_path, saved / "step=3.ckpt")
    assert [(tree["step"], tree["group"]) for tree in found] == [(2, 0), (2, 1), (6, 4), (6, 5)]


def test_another_run_and_a_gone_history_are_treated_as_by_the_completion_logger(tmp_path):
    saved = fit_and_save(tmp_path)
    fit_and_save(tmp_path)
    assert trees(tmp_path / "trees") == trees(tmp_path / "trees-2")
    shutil.rmtree(tmp_path / "trees")
    with pytest.warns(UserWarning, match="ProcessTreeMonitor: the history .* no longer at"):
        resume(tmp_path, saved / "step=4.ckpt")


def test_pictures_go_to_tensorboard_and_wandb(tmp_path):
    board, wandb = TensorBoardLogger(tmp_path, name="", version=""), FakeWandbLogger()
    monitor = ProcessTreeMonitor(every_n_steps=2)
    make_trainer(tmp_path, monitor, logger=[board, wandb]).fit(TreePolicy(rows=16, batch_size=4))
    events = EventAccumulator(board.log_dir)
    events.Reload()
    images = events.Images("process_tree")
    assert [event.step for event in images] == [2, 4]
    path = tmp_path / "trees" / "step-00000002.png"
    size = path.read_bytes()[16:24]  # width and height in a PNG's header
    assert images[0].encoded_image_string[16:24] == size
    assert wandb.images[0] == ("process_tree", [str(path)], 2)
    assert len(wandb.images) == 2


def test_pictures_go_to_mlflow_and_comet(tmp_path, monkeypatch):
    seen = []

    def client(*methods):
        return SimpleNamespace(
            **{name: lambda *given, **named: seen.append((*given, named)) for name in methods}
        )

    mlflow, comet = MLFlowLogger.__new__(MLFlowLogger), CometLogger.__new__(CometLogger)
    monkeypatch.setattr(MLFlowLogger, "experiment", client("log_artifact"))
    monkeypatch.setattr(MLFlowLogger, "run_id", "run")
    monkeypatch.setattr(CometLogger, "experiment", client("log_image"))
    path = tmp_path / "tree.png"
    log_image(SimpleNamespace(loggers=[mlflow, comet], global_step=3), "process_tree", path)
    assert seen == [
        ("run", str(path), "process_tree", {}),
        (str(path), {"name": "process_tree", "step": 3}),
    ]


def test_without_matplotlib_data_is_written_and_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    module = TreePolicy(rows=16, batch_size=8)
    with pytest.warns(UserWarning, match="matplotlib is not installed") as warned:
        make_trainer(tmp_path, ProcessTreeMonitor(every_n_steps=1)).fit(module)
    assert sum("matplotlib" in str(warning.message) for warning in warned) == 1
    assert [path.name for path in (tmp_path / "trees").iterdir()] == ["rank-0.jsonl"]
    assert len(trees(tmp_path / "trees")) == 4


def test_nothing_is_drawn_unless_wanted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monitor = ProcessTreeMonitor(every_n_steps=1, picture=False)
    make_trainer(tmp_path, monitor).fit(TreePolicy(rows=8, batch_size=8))
    assert [path.name for path in (tmp_path / "trees").iterdir()] == ["rank-0.jsonl"]


def test_unknown_rewards_are_null_and_completions_out_of_the_loss_are_leaves(tmp_path):
    module = TreePolicy(rows=8, batch_size=8)
    rows = members(module, 0)
    module.rewards[rows] = float("nan")
    module.mask[rows[0]] = False
    module.set_sizes[rows[0]] = 0
    module.completion_ids[rows[1:], 0] = torch.tensor([5, 6, 7])
    module.set_sizes[rows[1:]] = module.mask[rows[1:]].long()
    make_trainer(tmp_path, ProcessTreeMonitor(every_n_steps=1)).fit(module)
    tree = next(tree for tree in trees(tmp_path / "trees") if tree["group"] == 0)
    assert (tree["mean_reward"], tree["std_reward"]) == (None, None)
    assert tree["leaves"][0]["node"] is None
    assert tree["leaves"][0]["length"] == module.lengths[rows[0]]
    assert [node["members"] for node in tree["nodes"]] == [[1], [2], [3]]
    assert {node["mean_reward"] for node in tree["nodes"]} == {None}
    assert json.loads((tmp_path / "trees" / "rank-0.jsonl").read_text().splitlines()[0])


ROW_KEYS = ["set_sizes", "mask", "rewards", "advantages", "group"]
TEXT_KEYS = ["completion_ids", "token_texts", "prompts", "lengths", "truncated"]


@pytest.mark.parametrize("key", [*ROW_KEYS, *TEXT_KEYS])
def test_a_missing_key_is_named_with_the_method_that_must_return_it(tmp_path, key):
    module = TreePolicy()
    module.left_out = (key,)
    with pytest.raises(ValueError, match=f"ProcessTreeMonitor needs '{key}' .*training_step"):
        make_trainer(tmp_path, ProcessTreeMonitor()).fit(module)


def test_statistics_alone_need_no_text(tmp_path):
    module = TreePolicy()
    module.left_out = TEXT_KEYS
    trainer = make_trainer(tmp_path, ProcessTreeMonitor(max_trees=0))
    trainer.fit(module)
    assert "tree/path_depth" in trainer.callback_metrics
    assert not (tmp_path / "trees").exists()


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"set_sizes": torch.ones(4, 3)}, r"set_sizes .* shape \[4, 8\], got \[4, 3\]"),
        ({"completion_ids": torch.ones(4, 3)}, r"completion_ids .* shape \[4, 8\]"),
        ({"token_texts": [["a"]] * 4}, r"a text for each .* got 1"),
        ({"mask": torch.tensor([[1, 0, 1, 1, 0, 0, 0, 0]] * 4)}, "run from the left"),
        ({"set_sizes": torch.full((4, 8), 3)}, "says that 3 completions share token 0"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(tmp_path, extra, named):
    module = TreePolicy(rows=16, batch_size=4)
    module.lengths[:] = 8
    module.mask[:] = True
    module.completion_ids[:, 0] = torch.arange(ROWS)
    module.set_sizes[:] = 1
    module.extra = extra
    with pytest.raises(ValueError, match=named):
        make_trainer(tmp_path, ProcessTreeMonitor(every_n_steps=1)).fit(module)


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"max_trees": -1}, {"dirname": ""}])
def test_arguments_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        ProcessTreeMonitor(**options)
