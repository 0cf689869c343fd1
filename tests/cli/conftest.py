from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.running import Outcome, command_parser, config, lgrpo


@dataclass(frozen=True)
class Trained:
    """A finished run: what it printed, its folder, and the config it was made with."""

    outcome: Outcome
    run: Path
    config: Path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory with a config, for ``-c tiny.yaml``."""
    monkeypatch.chdir(tmp_path)
    config(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def parser():
    """The parser of the command line."""
    return command_parser()


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run with checkpoints, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("trained")
    path = config(folder)
    outcome = lgrpo("fit", "-c", path, "--runs", folder / "runs")
    assert outcome.code == 0, outcome.err
    (run,) = (folder / "runs" / "tiny").iterdir()
    return Trained(outcome, run, path)
