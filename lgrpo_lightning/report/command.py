"""``lgrpo report``: the command line of the report."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning.report.writer import write_report


def main(argv: Sequence[str]) -> None:
    """Write a report and tell where it is.

    Args:
        argv: what follows ``lgrpo report``. A mistake ends the program with a one-line message.
    """
    parser = argparse.ArgumentParser(
        prog="lgrpo report",
        description="Write finished runs as one HTML page: curves, process trees, completions. "
        "It opens in any browser, without a server or a network.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="folder of a run, runs/<name>/<date>; several are compared",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the file; by default report.html in the run's folder, or in the folder that holds "
        "all of them",
    )
    arguments = parser.parse_args(argv)
    try:
        path = write_report(arguments.runs, arguments.out)
    except (ValueError, OSError) as error:
        sys.exit(f"lgrpo: {error}")
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
