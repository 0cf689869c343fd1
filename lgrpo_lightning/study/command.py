"""``lgrpo study CONFIG``: run a study of configs/studies and write its report."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import ArgumentParser

from lgrpo_lightning.study.base import Study
from lgrpo_lightning.study.drawing import require_matplotlib
from lgrpo_lightning.study.jobs import run_jobs
from lgrpo_lightning.study.results import ResultFile
from lgrpo_lightning.study.training import CommandLine


def main(argv: list[str], lgrpo: CommandLine) -> None:
    """Run the study of a config file, or go on with it where it was interrupted.

    Args:
        argv: the command line after ``lgrpo study``: a config file, then options that override it.
        lgrpo: runs the command line ``lgrpo``, which stands above this room. Other processes have
            to be able to import it.

    Raises:
        ValueError: if the study cannot run as configured.
    """
    parser = _parser()
    named = bool(argv) and not argv[0].startswith("-")
    options = parser.parse_args(["--config", *argv] if named else argv or ["--help"])
    if options.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {options.workers}")
    study: Study = parser.instantiate_classes(options).study
    folder = Path(options.runs) / "studies" / Path(argv[0]).stem
    folder.mkdir(parents=True, exist_ok=True)
    require_matplotlib()
    results = ResultFile(folder / "results.jsonl")
    with _ended_by_sigterm():
        records = run_jobs(study.jobs(folder, lgrpo), results, options.workers, folder / "output")
    print(study.report(records, folder))
    print(f"\nreport: {folder}")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """End on SIGTERM as on an error: its default would leave the other processes behind."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lgrpo study",
        usage="lgrpo study CONFIG [--workers N] [--runs FOLDER] [--study.init_args.KEY VALUE …]",
        description="Run a study: many small runs and a report. Finished runs are kept, so that an "
        "interrupted study goes on where it was.",
    )
    parser.add_argument("--config", action="config", help="The study's config file.")
    parser.add_subclass_arguments(Study, "study", help="What is studied.")
    parser.add_argument("--workers", type=int, default=2, help="Processes, of one thread each.")
    parser.add_argument(
        "--runs", type=str, default="runs", help="The report goes to RUNS/studies/<config's name>."
    )
    return parser
