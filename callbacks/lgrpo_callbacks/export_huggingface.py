"""Exports the policy as a Hugging Face folder."""

import copy
import math
import shutil
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lgrpo_callbacks.attributes import find_attribute, refuse_sharded
from lgrpo_callbacks.folder_swap import finish_swap, replacing_folder
from lgrpo_callbacks.history import own_folder


class ExportHuggingFace(Callback):
    """Saves the last and the best policy as Hugging Face folders, with the tokenizer.

    ``<run>/<dirname>/last`` is the policy at the end of training and ``<run>/<dirname>/best``, with
    ``monitor``, that of the best validation run. Both can be opened with
    ``AutoModelForCausalLM.from_pretrained``, where an adapter also needs peft and its base model. A
    folder appears complete or not at all. An earlier run's are left alone (``<dirname>-2``); a
    resumed run goes on with its own, and if it has a run folder of its own, takes the best along.

    It reads two attributes of the module, policy and tokenizer, and calls their
    ``save_pretrained``; rank 0 alone does, while the others wait. The configuration is saved as the
    policy holds it, so dropout that was switched off in the layers for training is in the exported
    folder what it was before.

    Args:
        dirname: folder for both, under the run's folder or absolute.
        monitor: a logged metric, such as ``eval/pass@1``; looked at after each validation run. None
            for no best policy.
        mode: whether a larger (``"max"``) or a smaller (``"min"``) value is better.
        merge: fold an adapter into the weights, so that the folder needs neither peft nor the base
            model. A copy is merged, on the CPU; training goes on with the adapter. Without an
            adapter it makes no difference.
        policy: name of the module's attribute that holds the policy, with dots for an attribute of
            an attribute.
        tokenizer: the same for the tokenizer; None for none.

    Raises:
        ValueError: if an argument is out of range, there is no such attribute, it has no
            ``save_pretrained``, the model is split over processes, or the metric is not logged.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from lgrpo_callbacks import ExportHuggingFace, RewardEvaluator
        >>> export = ExportHuggingFace(monitor="eval/pass@1", mode="max")
        >>> trainer = Trainer(callbacks=[RewardEvaluator(), export], logger=False)
    """

    def __init__(
        self,
        dirname: str = "export",
        monitor: str | None = None,
        mode: Literal["min", "max"] = "max",
        merge: bool = False,
        policy: str = "policy",
        tokenizer: str | None = "tokenizer",
    ) -> None:
        if not dirname:
            raise ValueError("dirname must not be empty")
        if mode not in ("min", "max"):
            raise ValueError(f"mode must be 'min' or 'max', got {mode!r}")
        self.dirname = dirname
        self.monitor = monitor
        self.mode = mode
        self.merge = merge
        self.policy = policy
        self.tokenizer = tokenizer
        self.folder: Path | None = None
        self.best_score: float | None = None
        self.best_step: int | None = None

    @property
    def state_key(self) -> str:
        """Tell the states of several exports apart."""
        return self._generate_state_key(dirname=self.dirname)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there is something that can be saved."""
        refuse_sharded(trainer, self)
        self._saveable(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle the folder, a new one or that of the run that is resumed."""
        previous = self.folder if trainer.global_step else None
        self.folder = own_folder(trainer, self.dirname, previous, self, "export")
        has_best = False
        if trainer.is_global_zero:
            for name in ("last", "best"):
                finish_swap(self.folder / name)
            if previous is not None and previous != self.folder:
                _take_along(previous / "best", self.folder / "best")
            has_best = (self.folder / "best").is_dir()
        if not trainer.strategy.broadcast(has_best):
            self.best_score = self.best_step = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the policy if it is the best so far."""
        if self.monitor is None or trainer.sanity_checking:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            return  # another policy may be loaded just to be validated
        score = self._score(trainer)
        if self._is_better(score):
            self.best_score, self.best_step = score, trainer.global_step
            self._save(trainer, pl_module, "best")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the policy as it is at the end."""
        self._save(trainer, pl_module, "last")

    def _score(self, trainer: Trainer) -> float:
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            raise ValueError(
                f"ExportHuggingFace(monitor={self.monitor!r}): no such metric was logged by the "
                f"end of the validation run; logged are {', '.join(sorted(metrics))}"
            )
        # A module may have logged its own rank's value; rank 0's decides for all.
        score: float = trainer.strategy.broadcast(float(metrics[self.monitor]))
        return score

    def _is_better(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if self.best_score is None:
            return True
        return score > self.best_score if self.mode == "max" else score < self.best_score

    def _saveable(self, pl_module: LightningModule) -> list[Any]:
        """Return policy and tokenizer, which are known to have ``save_pretrained``."""
        named = {"policy": self.policy, "tokenizer": self.tokenizer}
        found = []
        for argument, path in named.items():
            if path is None:
                continue
            value = find_attribute(pl_module, path, self, argument)
            if not hasattr(value, "save_pretrained"):
                raise ValueError(
                    f"ExportHuggingFace({argument}={path!r}): {type(value).__name__} has no "
                    "save_pretrained; give the attribute that holds the Hugging Face object"
                )
            found.append(value)
        return found

    def _save(self, trainer: Trainer, pl_module: LightningModule, name: str) -> None:
        assert self.folder is not None, "on_train_start settles the folder"
        if trainer.is_global_zero:
            policy, *others = self._saveable(pl_module)
            if self.merge:
                policy = merged(policy)
            place = self.folder / name
            with replacing_folder(place) as folder:
                for item in (policy, *others):
                    item.save_pretrained(folder)
            score = "" if name == "last" else f", {self.monitor} {self.best_score:.4g}"
            rank_zero_info(
                f"ExportHuggingFace: the {name} policy (optimizer step {trainer.global_step}"
                f"{score}) is in {place}"
            )
        trainer.strategy.barrier("ExportHuggingFace")

    def state_dict(self) -> dict[str, Any]:
        """Return the folder and what the best policy is."""
        folder = None if self.folder is None else str(self.folder)
        return {"folder": folder, "best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the folder and what the best policy is."""
        folder = state_dict["folder"]
        self.folder = None if folder is None else Path(folder)
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]


def merged(policy: nn.Module) -> Any:  # noqa: ANN401 - peft returns the base model
    """Return the policy without its adapter, which is folded into a copy of the weights on the CPU.

    A model without an adapter is returned as it is.
    """
    if not hasattr(policy, "merge_and_unload"):
        return policy
    # The model itself is left alone: merging and undoing it would round the weights. deepcopy takes
    # what the memo holds, so the copy's tensors are never on the device.
    tensors = [*policy.parameters(), *policy.buffers()]
    on_cpu = {id(tensor): _copy_on_cpu(tensor) for tensor in tensors}
    copied: Any = copy.deepcopy(policy, on_cpu)
    return copied.merge_and_unload()


def _copy_on_cpu(tensor: Tensor) -> Tensor:
    copied = tensor.detach().to("cpu", copy=True)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied


def _take_along(source: Path, place: Path) -> None:
    """Copy a folder, if it is there."""
    finish_swap(source)
    if source.is_dir():
        with replacing_folder(place) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
