"""Going on from a checkpoint, with the options of the command line."""

import os
import pickle
from types import SimpleNamespace

import pytest
import torch

from lgrpo_lightning.cli.resume import ResumedOptions, changed_options
from tests.cli.running import lgrpo


@pytest.fixture
def resume(trained, place):
    """Go on from the trained run's last checkpoint for one optimizer step more."""

    def go_on(*arguments):
        return lgrpo(
            *("fit", "-c", trained.config, "--runs", trained.run.parents[1], "--name", "tiny"),
            *("--trainer.max_steps", 3, "--trainer.limit_val_batches", 0),
            *("--trainer.logger", "false", *arguments),
        )

    return go_on


def test_last_is_the_newest_and_the_command_line_wins(resume, trained):
    lr, kl_coef = "--model.optimizer.init_args.lr", "--model.loss.kl_coef"
    outcome = resume("--ckpt_path", "last", lr, 0.5, kl_coef, 0.125)
    assert outcome.code == 0, outcome.err
    assert f"starting from {trained.run}/checkpoints/last.ckpt\n" in outcome.err
    announced = [line for line in outcome.err.splitlines() if line.startswith("changed since")]
    assert announced == [
        "changed since the checkpoint: model.loss.kl_coef from 0.04 to 0.125",
        "changed since the checkpoint: model.optimizer.init_args.lr from 0.001 to 0.5",
    ]
    newest = max(trained.run.parent.iterdir(), key=lambda run: run.stat().st_mtime)
    assert newest != trained.run
    checkpoint = torch.load(newest / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    assert group["lr"] == 0.5
    assert group["weight_decay"] == 0.0
    assert checkpoint["hyper_parameters"]["loss"]["kl_coef"] == 0.125
    for path in newest.glob("checkpoints/*.ckpt"):  # the trained run stays the newest
        path.unlink()


def test_another_optimizer_is_refused(resume):
    outcome = resume(
        *("--ckpt_path", "last", "--model.optimizer", "torch.optim.SGD"),
        *("--model.optimizer.init_args.lr", 1),
    )
    assert outcome.code == 1
    assert "one cannot go on from the other's state" in outcome.err


class Hostile:
    """What unpickling it does is up to whoever made it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_hostile_checkpoint_is_refused_and_does_nothing(place, command):
    mark = place / "was here"
    torch.save({"state_dict": {}, "callbacks": Hostile(mark)}, place / "hostile.ckpt")
    outcome = lgrpo(command, "-c", "tiny.yaml", "--ckpt_path", "hostile.ckpt")
    assert outcome.code == 1
    assert "refused, and nothing of it was run: it holds more than plain data" in outcome.err
    assert "posix.mkdir" in outcome.err
    assert not mark.exists()
    assert not (place / "runs").exists()


def test_a_checkpoint_in_parts_is_only_read_from_somebody_who_is_trusted(place):
    folder = place / "parts.ckpt"
    folder.mkdir()
    meta = {"pytorch-lightning_version": "2.6", "global_step": 1, "hyper_parameters": {}}
    torch.save(meta, folder / "meta.pt")
    mark = place / "mark"
    (folder / ".metadata").write_bytes(pickle.dumps(Hostile(mark)))
    outcome = lgrpo("fit", "-c", "tiny.yaml", "--ckpt_path", "parts.ckpt")
    assert outcome.code == 1
    assert "refused, and nothing of it was run: torch keeps the index" in outcome.err
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"hello", "this is no checkpoint, or a broken one"),
        (b"", "this is no checkpoint, or a broken one"),
        ({"weights": torch.zeros(2)}, "this is no checkpoint of a run"),
    ],
)
def test_what_is_no_checkpoint_is_refused(place, content, said):
    path = place / "some.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    outcome = lgrpo("fit", "-c", "tiny.yaml", "--ckpt_path", path)
    assert outcome.code == 1
    assert said in outcome.err


def test_a_half_written_checkpoint_is_refused(place, trained):
    whole = (trained.run / "checkpoints" / "last.ckpt").read_bytes()
    (place / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    outcome = lgrpo("fit", "-c", "tiny.yaml", "--ckpt_path", "half.ckpt")
    assert outcome.code == 1
    assert "this is no checkpoint, or a broken one" in outcome.err


def test_differences_are_named_with_dots():
    before = {"a": 1, "b": {"c": 2, "d": [3]}, "e": None, "old": 4}
    now = {"a": 1, "b": {"c": 5, "d": [3]}, "e": {"f": 6}, "new": 7}
    assert changed_options(before, now) == {"b.c": (2, 5), "e": (None, {"f": 6})}


def test_options_of_a_schedule_hold_from_here_on():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=4)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.75
    trainer = SimpleNamespace(
        optimizers=[optimizer], lr_scheduler_configs=[SimpleNamespace(scheduler=scheduler)]
    )
    changes = {
        "optimizer.init_args.lr": (1.0, 4.0),
        "optimizer.init_args.weight_decay": (0.0, 0.1),
        "lr_scheduler.init_args.total_iters": (4, 6),
        "lr_scheduler.init_args.milestones": ([1], [2]),
    }
    with pytest.warns(UserWarning, match=r"milestones stays as it is.*LinearLR does not look"):
        ResumedOptions(changes).on_train_start(trainer, None)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], scheduler.total_iters) == (3.0, 0.1, 6)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert scheduler.base_lrs == [4.0]
