"""What a study is: jobs, and what is made of their results."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning.study.jobs import Job
from lgrpo_lightning.study.results import Record
from lgrpo_lightning.study.training import CommandLine


class Study(ABC):
    """A question, the runs that answer it, and a report of the answer."""

    @abstractmethod
    def jobs(self, folder: Path, lgrpo: CommandLine) -> list[Job]:
        """All jobs of the study.

        Args:
            folder: where jobs may write files of their own.
            lgrpo: runs the command line, for jobs that are whole training runs.

        Raises:
            ValueError: if the study cannot run.
        """

    @abstractmethod
    def report(self, records: Sequence[Record], folder: Path) -> str:
        """Write tables and pictures.

        Args:
            records: the results of :meth:`jobs`, in their order.
            folder: where to write.

        Returns:
            The text that is printed.
        """
