"""The data module: prompts for training and evaluation, dealt out rollout by rollout."""

from __future__ import annotations

import os
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lgrpo_lightning.data.eval_set import EvalSet
from lgrpo_lightning.data.loader import PromptLoader
from lgrpo_lightning.data.progress import steps_to_redo
from lgrpo_lightning.data.prompt_format import PromptFormat
from lgrpo_lightning.data.prompts import PromptSet, prompt_key
from lgrpo_lightning.data.sources import download, short_name


@runtime_checkable
class RolloutModule(Protocol):
    """A LightningModule that makes several training steps of one batch of prompts."""

    def steps_per_rollout(self, num_prompts: int) -> int:
        """Return the training steps of a rollout of that many prompts on one rank."""
        ...


class PromptGroupDataModule(LightningDataModule):
    r"""Prompts for training and evaluation, in TRL's prompt format.

    A data set has a ``prompt`` column (text, or a list of role messages); all other columns are
    passed to the reward functions. Nothing is read before ``setup``. Each training batch is dealt
    as often in a row as ``steps_per_rollout`` of the LightningModule says; a module without this
    method gets every batch once. All evaluation sets are dealt by one loader, and each batch says
    in ``sources`` which set a prompt came from.

    Example::

        data = PromptGroupDataModule(
            path="data/gsm8k/train.jsonl",
            columns={"prompt": "question"},
            template="{prompt}\nPut the answer in \\boxed{{}}.",
            eval_path="data/gsm8k/test.jsonl",
        )

    Args:
        path: Training prompts: a local file (JSON, JSON Lines, Parquet, CSV), a glob or list of
            files, a folder (data files, or written by ``save_to_disk``), a name on the Hugging Face
            hub, or the rows themselves; from Python also a :class:`datasets.Dataset`. It can be
            left out where nothing is trained.
        name: Configuration of a set on the hub, such as "main".
        split: Split to train on; by default the only one there is, or "train".
        eval_path: Prompts for validation and test; with ``eval_split`` alone they come from
            ``path``. Columns, template and so on are those of the training set.
        eval_split: Split to evaluate on; it may be left out where there is only one.
        eval_sets: Several evaluation sets by name, instead of ``eval_path``.
        columns: Our name for columns of the data set, for example ``{"prompt": "question"}``.
        system_prompt: System message; text prompts become conversations by it.
        template: Text around each prompt, with column names as fields: ``"{prompt}\nBe brief."``.
        conversational: True makes text prompts conversations, so that the model's chat template is
            applied; None leaves the prompts as they are.
        prompts_per_rollout: Prompts of a rollout on one process.
        eval_prompts_per_batch: Prompts of an evaluation batch on one process.
        limit: Train on the first rows only.
        eval_limit: Evaluate on the first rows of each set only.
        shuffle: Draw a new order of the training prompts each epoch.
        seed: Seed of the order; by default that of ``seed_everything``, or 0.

    Raises:
        ValueError: If arguments contradict each other. ``setup`` raises it for data that cannot be
            read or used.
    """

    def __init__(
        self,
        path: str | list[str] | list[dict[str, Any]] | None = None,
        name: str | None = None,
        split: str | None = None,
        eval_path: str | list[str] | list[dict[str, Any]] | None = None,
        eval_split: str | None = None,
        eval_sets: dict[str, EvalSet] | None = None,
        columns: dict[str, str] | None = None,
        system_prompt: str | None = None,
        template: str | None = None,
        conversational: bool | None = None,
        prompts_per_rollout: int = 8,
        eval_prompts_per_batch: int = 32,
        limit: int | None = None,
        eval_limit: int | None = None,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if eval_sets and (eval_path is not None or eval_split is not None):
            raise ValueError(
                f"give eval_sets, or eval_path and eval_split, not both: eval_sets has "
                f"{', '.join(eval_sets)}, eval_path is {eval_path!r:.100} and eval_split "
                f"{eval_split!r}; set these two to null, or eval_sets"
            )
        for key, value in (
            ("prompts_per_rollout", prompts_per_rollout),
            ("eval_prompts_per_batch", eval_prompts_per_batch),
        ):
            if value < 1:
                raise ValueError(f"{key} is {value}; it must be 1 or more")
        self.path = path
        self.name = name
        self.split = split
        self.columns = columns
        self.prompt_format = PromptFormat(system_prompt, template, conversational)
        self.prompts_per_rollout = prompts_per_rollout
        self.eval_prompts_per_batch = eval_prompts_per_batch
        self.limit = limit
        self.eval_limit = eval_limit
        self.shuffle = shuffle
        self.seed = seed
        self.eval_sets = dict(eval_sets or {})
        if eval_path is not None:
            self.eval_sets[short_name(eval_path)] = EvalSet(eval_path, split=eval_split)
        elif eval_split is not None:
            if path is None:
                raise ValueError(f"eval_split is {eval_split!r}, but of no data; give eval_path")
            self.eval_sets[short_name(path)] = EvalSet(path, name=name, split=eval_split)
        self._eval_formats = {
            key: entry.format(self.prompt_format) for key, entry in self.eval_sets.items()
        }
        self._train_set: PromptSet | None = None
        self._eval_set: PromptSet | None = None

    @property
    def train_set(self) -> PromptSet | None:
        """Training prompts; None before ``setup("fit")``."""
        return self._train_set

    @property
    def eval_set(self) -> PromptSet | None:
        """Prompts of all evaluation sets; None before ``setup`` or where there are none."""
        return self._eval_set

    def prepare_data(self) -> None:
        """Download sets from the hub, once per node, before all processes read them."""
        fitting = self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING
        if self.path is not None and fitting:
            download(self.path, self.name)
        for entry in self.eval_sets.values():
            download(entry.path, entry.name)

    def setup(self, stage: str) -> None:
        """Read and check the prompts that a stage needs.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            ValueError: If prompts cannot be read or used, are too few, or there are none to
                evaluate.
        """
        if stage != "fit" and not self.eval_sets:
            action = TrainerFn(stage).value
            raise ValueError(f"there are no prompts to {action}; give eval_path or eval_sets")
        if stage == "fit" and self.path is None:
            raise ValueError("there are no prompts to train on; give path")
        before = (self._train_set, self._eval_set)
        if stage == "fit" and self.path is not None and self._train_set is None:
            self._train_set = PromptSet.load(
                self.path,
                config=self.name,
                split=self.split,
                columns=self.columns,
                prompt_format=self.prompt_format,
                limit=self.limit,
            )
            # Too few prompts for a rollout are noticed here, before a model is loaded.
            self._training_loader(self._train_set, steps=1)
        if self.eval_sets and self._eval_set is None:
            sets = [
                entry.load(name, self.columns, self._eval_formats[name], self.eval_limit)
                for name, entry in self.eval_sets.items()
            ]
            self._eval_set = PromptSet.concatenate(sets)
        known = before == (self._train_set, self._eval_set)
        if self._train_set is not None and self._eval_set is not None and not known:
            _warn_of_overlap(self._train_set, self._eval_set)

    def train_dataloader(self) -> PromptLoader:
        """Deal the training prompts, each batch once for every training step made of it.

        Raises:
            ValueError: Before ``setup("fit")``.
        """
        if self._train_set is None:
            raise ValueError('the training prompts are not loaded; call setup("fit") first')
        steps = 1
        if self.trainer is not None and isinstance(self.trainer.lightning_module, RolloutModule):
            steps = self.trainer.lightning_module.steps_per_rollout(self.prompts_per_rollout)
        return self._training_loader(self._train_set, steps)

    def val_dataloader(self) -> PromptLoader | list[PromptLoader]:
        """Deal the prompts of all evaluation sets once, in their order.

        Raises:
            ValueError: Before ``setup``.
        """
        if not self.eval_sets:
            return []
        if self._eval_set is None:
            raise ValueError("the evaluation prompts are not loaded; call setup first")
        replicas, rank = self._share()
        return PromptLoader(
            self._eval_set,
            self.eval_prompts_per_batch,
            shuffle=False,
            rank=rank,
            world_size=replicas,
            drop_last=False,
        )

    def test_dataloader(self) -> PromptLoader | list[PromptLoader]:
        """Deal the same prompts as for validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> PromptLoader | list[PromptLoader]:
        """Deal the same prompts as for validation."""
        return self.val_dataloader()

    def _training_loader(self, prompts: PromptSet, steps: int) -> PromptLoader:
        replicas, rank = self._share()
        trainer = self.trainer
        # Lightning sets overfit_batches without declaring it.
        overfit = trainer is not None and trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return PromptLoader(
            prompts,
            self.prompts_per_rollout,
            steps,
            shuffle=self.shuffle and not overfit,  # overfitting needs the same prompts each epoch
            seed=int(os.environ.get("PL_GLOBAL_SEED", "0")) if self.seed is None else self.seed,
            rank=rank,
            world_size=replicas,
            drop_last=True,
            batches_counted=None if trainer is None else lambda: trainer.fit_loop.batch_idx + 1,
            steps_to_redo=lambda: 0 if trainer is None else steps_to_redo(trainer),
        )

    def _share(self) -> tuple[int, int]:
        """Return how many processes share the data, and which this is (not always all of them)."""
        kwargs = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (kwargs["num_replicas"], kwargs["rank"]) if kwargs else (1, 0)


def _warn_of_overlap(train: PromptSet, held_out: PromptSet) -> None:
    seen = {prompt_key(prompt) for prompt in train.prompts}
    shared = sum(prompt_key(prompt) in seen for prompt in held_out.prompts)
    if shared:
        rank_zero_warn(
            f"{shared} of {len(held_out)} evaluation prompts are training prompts too, so the "
            "evaluation is not held out"
        )
