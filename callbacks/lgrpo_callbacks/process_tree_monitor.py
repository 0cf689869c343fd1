"""Shows the hidden process rewards of a group: statistics, data and pictures of its tree."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lgrpo_callbacks.cadence import Cadence
from lgrpo_callbacks.history import open_history
from lgrpo_callbacks.images import log_image
from lgrpo_callbacks.jsonl import append_jsonl
from lgrpo_callbacks.metrics import (
    MaskedMeans,
    advantage_weights,
    intermediate_proportion,
    path_depth,
)
from lgrpo_callbacks.outputs import require_keys
from lgrpo_callbacks.tree_groups import Group, GroupCollector
from lgrpo_callbacks.tree_picture import can_draw, picture_png
from lgrpo_callbacks.tree_record import TreeRecord, tree_record

_KEYS = ("set_sizes", "mask", "rewards", "advantages", "group")
_TREE_KEYS = ("completion_ids", "token_texts", "prompts", "lengths", "truncated")
_TOKEN_MEANS = ("set_size", "unique_tokens", "_weight", "_removed")
_COMPLETION_MEANS = ("path_depth", "intermediate_proportion")
_GROUP_MEANS = ("flat_groups", "zero_variance_groups")


class ProcessTreeMonitor(Callback):
    """Logs what the process trees of a run look like, and at a cadence shows some of them.

    A group's completions form a tree of shared prefixes. λ(i,t) are the completions that share
    completion i through token t, a process step is a run of tokens with one and the same set, and
    its advantage is the mean over the set (Sullivan & Koller, arXiv 2509.21154). Logged per
    optimizer step, over all ranks:

    - ``tree/path_depth``: process steps on the way of a completion,
    - ``tree/intermediate_proportion``: share of a completion's tokens with |λ| > 1,
    - ``tree/set_size``: |λ|, mean over tokens,
    - ``tree/unique_tokens``: share of tokens left when those of a step count once, mean of 1/|λ|,
    - ``tree/weight_removed``: share of the weight Σ|a| of GRPO's tokens that λ takes off,
      1 − Σ(|a|/|λ|) / Σ|a|,
    - ``tree/flat_groups``: share of groups in which no two completions share a token,
    - ``tree/zero_variance_groups``: share of groups whose rewards are all equal.

    Trees are lines of ``<run>/<dirname>/rank-<rank>.jsonl``: ``step`` (optimizer steps done),
    ``epoch``, ``prompt``, ``group``, ``group_size``, ``mean_reward``, ``std_reward``, ``nodes``
    (:class:`~lgrpo_callbacks.tree_record.Node`, one per process step, depth first) and ``leaves``
    (:class:`~lgrpo_callbacks.tree_record.Leaf`, one per completion); NaN is null. Groups whose
    rewards differ come first. The first tree of rank 0 is also drawn, as
    ``<run>/<dirname>/step-00000000.png`` and, as ``process_tree``, in the loggers that take images
    (TensorBoard, Weights & Biases, MLflow, Comet). Files of an earlier run are left alone, and a
    resumed run continues its file without a step twice, see
    :func:`~lgrpo_callbacks.history.open_history`.

    From ``training_step`` it reads ``set_sizes`` [M, T] long, ``mask`` [M, T] bool, ``rewards``,
    ``advantages`` [M] and ``group`` [M] long, which prompt of its rollout each completion is for;
    for trees also ``completion_ids`` [M, T] long, ``token_texts`` (of each of M completions a list
    of its tokens' texts; indexed only for trees that are written), ``prompts`` (M texts),
    ``lengths`` and ``truncated`` [M]. The completions of a group may come in several micro-batches;
    where they are spread over several optimizer steps, ``group_size`` (int) has to tell how many
    there are.

    Args:
        every_n_steps: optimizer steps between two times at which trees are written.
        max_trees: trees that a rank writes each time; 0 for the statistics alone.
        dirname: folder for data and pictures, under the run's folder or absolute.
        picture: draw one of them; needs matplotlib.

    Raises:
        ValueError: if an argument is out of range, a key is missing, or the keys do not fit
            together.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from lgrpo_callbacks import ProcessTreeMonitor
        >>> trees = ProcessTreeMonitor(every_n_steps=50, max_trees=2)
        >>> trainer = Trainer(callbacks=[trees], log_every_n_steps=1, logger=False)
    """

    def __init__(
        self,
        every_n_steps: int = 50,
        max_trees: int = 4,
        dirname: str = "trees",
        picture: bool = True,
    ) -> None:
        if max_trees < 0:
            raise ValueError(f"max_trees must be 0 or more, got {max_trees}")
        if not dirname:
            raise ValueError("dirname must not be empty")
        self._cadence = Cadence(every_n_steps)
        self.max_trees = max_trees
        self.dirname = dirname
        self.picture = picture
        self.folder: Path | None = None
        self._path: Path | None = None
        self._means = MaskedMeans([*_TOKEN_MEANS, *_COMPLETION_MEANS, *_GROUP_MEANS])
        self._logged: set[str] = set()
        self._groups = GroupCollector({})
        self._whole: list[Group] = []
        self._unfinished: dict[int, int] = {}
        self._due = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting and open the file, a new one or that of the run that is resumed."""
        self._means = self._means.to(pl_module.device)
        self._means.reset()
        self._logged.clear()
        self._groups = GroupCollector(self._unfinished if trainer.global_step else {})
        self._whole = []
        self._due = False
        self._cadence.start(trainer)
        if self.max_trees:
            self.folder, self._path = open_history(trainer, self.dirname, self.folder, self)
        if self._draws and not can_draw():
            rank_zero_warn(
                "ProcessTreeMonitor: matplotlib is not installed, so trees are written as data but "
                "not drawn; pip install matplotlib, or set picture=False"
            )

    @property
    def _draws(self) -> bool:
        return self.picture and self.max_trees > 0

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's type is wider than what is accepted
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Count a micro-batch; after the last one of an optimizer step, log and write."""
        keys = _KEYS + _TREE_KEYS if self.max_trees else _KEYS
        found = require_keys(outputs, keys, self, pl_module, "training_step")
        self._count(found)
        # Kept until the groups are whole, hence without what is not needed.
        needed = {key: found[key] for key in (*keys, "group_size") if key in found}
        self._whole += self._groups.add(needed)
        if not self._cadence.step_ended(trainer):
            return
        self._whole += self._groups.end_step()
        self._due |= self._cadence.due
        self._log(pl_module)
        self._write(trainer)
        self._whole = []

    def _count(self, outputs: Mapping[str, Any]) -> None:
        sizes, mask = outputs["set_sizes"], outputs["mask"].bool()
        for name in ("set_sizes", "completion_ids"):
            if name in outputs and outputs[name].shape != mask.shape:
                raise ValueError(
                    f"ProcessTreeMonitor: {name} of training_step's output must have the mask's "
                    f"shape {list(mask.shape)}, got {list(outputs[name].shape)}"
                )
        weight, removed = advantage_weights(sizes, mask, outputs["advantages"])
        of_tokens = (sizes, 1 / sizes, weight, removed)
        self._means.update(dict(zip(_TOKEN_MEANS, of_tokens, strict=True)), mask)
        of_completions = (path_depth(sizes, mask), intermediate_proportion(sizes, mask))
        self._means.update(
            dict(zip(_COMPLETION_MEANS, of_completions, strict=True)), mask.any(dim=1)
        )

    def _log(self, pl_module: LightningModule) -> None:
        traits = [(group.is_flat, group.has_zero_variance) for group in self._whole]
        values = torch.tensor(traits, dtype=torch.float32).view(
            -1, len(_GROUP_MEANS)
        )  # [groups, 2]
        self._means.update(
            dict(zip(_GROUP_MEANS, values.unbind(dim=1), strict=True)),
            torch.ones(len(values), dtype=torch.bool),
        )
        result = self._means.compute()  # sums over ranks
        means, weights = torch.stack(
            [torch.stack(list(part.values())) for part in result]
        ).tolist()  # one copy to the CPU
        self._means.reset()
        # A name once logged is logged again, as NaN if nothing was counted: Lightning would
        # otherwise repeat its last value.
        self._logged |= {n for n, weight in zip(result.weights, weights, strict=True) if weight}
        figures = {
            name: mean
            for name, mean in zip(result.means, means, strict=True)
            if name in self._logged
        }
        if "_weight" in figures:
            removed, weight = figures.pop("_removed"), figures.pop("_weight")
            figures["weight_removed"] = removed / weight if weight else math.nan
        pl_module.log_dict(
            {f"tree/{name}": value for name, value in figures.items()},
            on_step=True,
            on_epoch=False,
            batch_size=1,
        )

    def _write(self, trainer: Trainer) -> None:
        if not (self._due and self.max_trees and self._whole):
            return  # where no group is whole yet, the next step with one is taken
        self._due = False
        groups = sorted(self._whole, key=lambda group: group.has_zero_variance)[: self.max_trees]
        trees = [tree_record(group, trainer.global_step, trainer.current_epoch) for group in groups]
        if self._path is not None:
            append_jsonl(self._path, trees)
        if self._draws and trainer.is_global_zero and can_draw():
            self._draw(trainer, trees[0])

    def _draw(self, trainer: Trainer, tree: TreeRecord) -> None:
        assert self.folder is not None
        content = picture_png(tree)
        path = self.folder / f"step-{trainer.global_step:08d}.png"
        unfinished = path.with_suffix(".tmp")
        unfinished.write_bytes(content)
        os.replace(unfinished, path)  # it appears whole or not at all
        log_image(trainer, "process_tree", path)

    @property
    def state_key(self) -> str:
        """Several in one trainer, with folders of their own, each keep their state."""
        return self._generate_state_key(dirname=self.dirname)

    def state_dict(self) -> dict[str, Any]:
        """Return where the trees lie and which groups are not whole yet."""
        return {
            "folder": None if self.folder is None else str(self.folder),
            "unfinished": self._groups.unfinished,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over where the trees lie; the file is opened when training starts."""
        folder = state_dict["folder"]
        self.folder = None if folder is None else Path(folder)
        self._unfinished = state_dict["unfinished"]
