"""Checkpoint files are whole or not there, whatever happens while they are written."""

import fcntl
import resource

import pytest
import torch

from lgrpo_lightning.checkpoint_io import (
    CheckpointWriteError,
    WholeCheckpointIO,
    remove_unfinished,
)
from tests.resume.comparing import equal

SMALL, LARGE = {"weights": torch.arange(100)}, {"weights": torch.zeros(500_000)}


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond 100 kB, which fails like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written_is_read(tmp_path):
    place = tmp_path / "new" / "last.ckpt"
    io = WholeCheckpointIO()
    for content in (LARGE, SMALL):
        io.save_checkpoint(content, place)
        assert equal(io.load_checkpoint(place, weights_only=True), content)
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_the_former_checkpoint(tmp_path):
    place = tmp_path / "last.ckpt"
    io = WholeCheckpointIO()
    io.save_checkpoint(SMALL, place)
    with pytest.raises(CheckpointWriteError) as caught:
        io.save_checkpoint(LARGE, place)
    assert f"the checkpoint {place} cannot be written: File too large" in str(caught.value)
    assert "the file of that name is as it was. Make room" in str(caught.value)
    assert equal(io.load_checkpoint(place, weights_only=True), SMALL)
    assert list(tmp_path.iterdir()) == [place]


def test_an_interruption_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    place = tmp_path / "last.ckpt"
    io = WholeCheckpointIO()
    io.save_checkpoint(SMALL, place)

    def interrupted(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint(LARGE, place)
    assert list(tmp_path.iterdir()) == [place]


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        CheckpointWriteError, match=r"file/last.ckpt cannot be written: File exists"
    ):
        WholeCheckpointIO().save_checkpoint(SMALL, tmp_path / "file" / "last.ckpt")


def test_only_what_killed_processes_left_is_removed(tmp_path):
    dead, living = (tmp_path / f".{name}.ckpt.unfinished" for name in ("dead", "living"))
    dead.write_bytes(b"half")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_unfinished([tmp_path]) == [dead]
    assert list(tmp_path.iterdir()) == [living]


def test_remote_places_are_left_to_lightning(tmp_path):
    place = "memory://checkpoints/last.ckpt"
    WholeCheckpointIO().save_checkpoint(SMALL, place)
    assert equal(WholeCheckpointIO().load_checkpoint(place, weights_only=True), SMALL)
