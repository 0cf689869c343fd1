"""The command line: ``lgrpo fit|validate|test|predict``."""

from lgrpo_lightning.cli.program import main

__all__ = ["main"]
