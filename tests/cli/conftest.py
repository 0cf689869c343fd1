from dataclasses import dataclass
from pathlib import Path

import pytest

from lgrpo_lightning.cli.command import LambdaCLI
from tests.cli.running import Outcome, config, lgrpo


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


class ParserReadyError(Exception):
    """What follows the making of the parser is not wanted."""


class ParserOnly(LambdaCLI):
    """The command line, up to its parser."""

    def parse_arguments(self, parser, args):
        raise ParserReadyError


@pytest.fixture(scope="session")
def parser():
    """The parser of the command line."""
    cli = ParserOnly.__new__(ParserOnly)
    with pytest.raises(ParserReadyError):
        cli.__init__([])
    return cli.parser


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run with checkpoints, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("trained")
    path = config(folder)
    outcome = lgrpo("fit", "-c", path, "--runs", folder / "runs")
    assert outcome.code == 0, outcome.err
    (run,) = (folder / "runs" / "tiny").iterdir()
    return Trained(outcome, run, path)
