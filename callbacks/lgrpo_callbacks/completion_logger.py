"""Keeps every completion that a run trained on, and shows some of them."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lgrpo_callbacks.cadence import Cadence
from lgrpo_callbacks.completion_rows import TABLE_COLUMNS, Row, completion_rows, table_cells
from lgrpo_callbacks.history import open_history
from lgrpo_callbacks.jsonl import append_jsonl
from lgrpo_callbacks.outputs import require_keys
from lgrpo_callbacks.tables import format_markdown
from lgrpo_callbacks.terminal import completion_table

_KEYS = ("prompts", "completions", "rewards", "advantages")


class CompletionLogger(Callback):
    """Writes all completions of a run to JSON Lines files, and some into tables.

    The history lies in ``<run>/<dirname>/rank-<rank>.jsonl``, a line per completion: ``step``
    (optimizer steps done, 1 for the first), ``rank``, ``prompt``, ``completion``, ``reward``,
    ``advantage`` and, where ``training_step`` returns them, ``group``, ``length``, ``truncated``
    and ``reward_breakdown``; NaN is null. Lines are written after each optimizer step and are on
    the disk before the next; :func:`~lgrpo_callbacks.read_jsonl` reads a history, also that of a
    killed run. A completion that serves several optimizer steps has a line for each.

    An earlier run's history is left alone: a new run in the same folder writes to
    ``<dirname>-2``. A run resumed from a checkpoint continues its history: steps after the
    checkpoint, which are trained again, are cut from it. If the resumed run has a folder of its
    own, the history up to the checkpoint is copied there.

    From ``training_step`` it reads ``prompts``, ``completions`` (M texts), ``rewards``,
    ``advantages`` [M] and, where given, ``group``, ``lengths``, ``truncated`` [M] and
    ``reward_breakdown`` {name: [M]}.

    Args:
        every_n_steps: optimizer steps between two tables, in the terminal and, as ``completions``,
            in TensorBoard and Weights & Biases. The history has every step.
        max_rows: rows of a table.
        dirname: folder for the history, under the run's folder or absolute.
        to_terminal: print the tables, by rich where it is installed.

    Raises:
        ValueError: if an argument is out of range or a key is missing or of the wrong size.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from lgrpo_callbacks import CompletionLogger
        >>> completions = CompletionLogger(every_n_steps=100, to_terminal=True)
        >>> trainer = Trainer(callbacks=[completions], logger=False)
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        max_rows: int = 8,
        dirname: str = "completions",
        to_terminal: bool = False,
    ) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows must be 1 or more, got {max_rows}")
        if not dirname:
            raise ValueError("dirname must not be empty")
        self._cadence = Cadence(every_n_steps)
        self.max_rows = max_rows
        self.dirname = dirname
        self.to_terminal = to_terminal
        self.folder: Path | None = None
        self._path: Path | None = None
        self._rows: list[Row] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the history, a new one or that of the run that is resumed."""
        self.folder, self._path = open_history(trainer, self.dirname, self.folder, self)
        self._rows = []
        self._cadence.start(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's type is wider than what is accepted
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Keep a micro-batch; after the last one of an optimizer step, write."""
        found = require_keys(outputs, _KEYS, self, pl_module, "training_step")
        self._rows += completion_rows(found, trainer.global_rank)
        if not self._cadence.step_ended(trainer):
            return
        rows = [{"step": trainer.global_step, **row} for row in self._rows]
        self._rows = []
        if self._path is not None:
            append_jsonl(self._path, rows)
        if trainer.is_global_zero and self._cadence.due:
            self._show(trainer, rows[: self.max_rows])

    def _show(self, trainer: Trainer, rows: list[Row]) -> None:
        if self.to_terminal:
            trainer.print(f"\n{completion_table(rows)}")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                table = format_markdown(TABLE_COLUMNS, table_cells(rows))
                logger.experiment.add_text("completions", table, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_table(
                    "completions",
                    columns=list(TABLE_COLUMNS),
                    data=[[row.get(column) for column in TABLE_COLUMNS] for row in rows],
                    step=trainer.global_step,
                )

    @property
    def state_key(self) -> str:
        """Several in one trainer, with folders of their own, each keep their state."""
        return self._generate_state_key(dirname=self.dirname)

    def state_dict(self) -> dict[str, Any]:
        """Return where the history lies."""
        return {"folder": None if self.folder is None else str(self.folder)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over where the history lies; it is opened when training starts."""
        folder = state_dict["folder"]
        self.folder = None if folder is None else Path(folder)
