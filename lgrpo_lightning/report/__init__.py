"""A finished run, or several, as one HTML page: curves, process trees, completions.

The page needs neither a server nor a network. The room imports no torch, so that ``lgrpo report``
starts at once; it reads what the run's callbacks and loggers wrote, and nothing else.
"""

from lgrpo_lightning.report.writer import write_report

__all__ = ["write_report"]
