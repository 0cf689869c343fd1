"""What ``lgrpo predict`` leaves behind: completions and rewards as JSON lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lgrpo_callbacks.folders import run_folder
from lgrpo_callbacks.jsonl import write_new_jsonl
from lgrpo_callbacks.ranks import data_rank, gather_objects_to_first
from lgrpo_lightning.cli.run_folder import shown_path
from lgrpo_lightning.data import PromptBatch

Row = dict[str, Any]


class PredictionWriter(Callback):
    """Writes what ``predict_step`` returns to ``<run>/predictions.jsonl``, a line per prompt.

    The file holds the prompts of all processes in the order of the data, and appears whole or not
    at all.

    Attributes:
        path: the file, on the first process, once it is written.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._rows: list[Row] = []

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start anew."""
        self._rows = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Any],
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        self._rows += prediction_rows(outputs, batch)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what all processes kept."""
        path = run_folder(trainer, "predictions.jsonl")
        # Processes that work on the same data (tensor parallelism) count once.
        shares = dict(gather_objects_to_first(trainer, (data_rank(trainer), self._rows)))
        self._rows = []
        if trainer.is_global_zero:
            rows = [row for share in shares.values() for row in share]
            order = list(dict.fromkeys(row["source"] for row in rows))
            rows.sort(key=lambda row: (order.index(row["source"]), row["row"]))
            self.path = shown_path(write_new_jsonl(path, rows))


def prediction_rows(outputs: dict[str, Any], batch: PromptBatch) -> Iterator[Row]:
    """A row for each of the B prompts of a batch.

    Args:
        outputs: what ``predict_step`` returned, see :class:`~lgrpo_lightning.LambdaGRPO`;
            ``answers`` may be missing.
        batch: the prompts; their other columns are written too.
    """
    for place, prompt in enumerate(outputs["prompts"]):
        yield {
            "source": batch.sources[place],
            "row": batch.indices[place],
            "prompt": prompt,
            "completions": outputs["completions"][place],
            "rewards": outputs["rewards"][place].tolist(),
            "reward_breakdown": {
                name: values[place].tolist() for name, values in outputs["reward_breakdown"].items()
            },
            "lengths": outputs["lengths"][place].tolist(),
            "truncated": outputs["truncated"][place].tolist(),
            **({"answers": outputs["answers"][place]} if "answers" in outputs else {}),
            "columns": {name: values[place] for name, values in batch.columns.items()},
        }
