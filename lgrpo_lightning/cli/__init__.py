"""The command line: ``lgrpo fit|validate|test|predict|report|memory``."""

import sys


def main(args: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: what follows ``lgrpo``; None for that of this process.
    """
    arguments = sys.argv[1:] if args is None else args
    # Imported when needed: a report starts at once, without torch.
    if arguments[:1] == ["report"]:
        from lgrpo_lightning.report.command import main as report

        report(arguments[1:])
    else:
        from lgrpo_lightning.cli.program import main as run

        run(args)


__all__ = ["main"]
