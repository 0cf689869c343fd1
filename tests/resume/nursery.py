"""Runs ``lgrpo`` in processes of their own, forked from one that has imported everything.

Read as a script, it is that process: each line of its input is a command line, for which it forks;
its output has a line with the number of each process, and one with how it ended.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Nursery:
    """Starts runs within a folder; imports once, so that starting takes a moment."""

    def __init__(self, folder: Path) -> None:
        paths = [str(ROOT), str(ROOT / "callbacks")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self.output = (folder / "output.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.output,
            text=True,
        )

    def start(self, *arguments: object) -> int:
        """Begin a run; give its process number."""
        self.process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def result(self) -> int:
        """Wait for the run's end; give its exit code, negative for a signal."""
        return int(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.output.close()


def serve() -> None:
    """Fork for every line of the input."""
    from lgrpo_lightning.cli import main

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.dup2(sys.stderr.fileno(), 1)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            main(json.loads(line))
            sys.exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
