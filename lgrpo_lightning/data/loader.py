"""The loader: deals the prompts of a rollout once for every training step made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from lgrpo_lightning.data.batch import PromptBatch
from lgrpo_lightning.data.prompts import PromptSet
from lgrpo_lightning.data.sampler import PromptSampler


class PromptLoader:
    """A sized, stateful iterable of :class:`PromptBatch` that is no ``DataLoader``.

    Each rollout is dealt ``steps_per_batch`` times in a row, with ``step = 0 … steps - 1``. It is
    no ``DataLoader`` because Lightning puts its own samplers into those, which would mix rollouts;
    it is sized because Lightning prefetches from unsized iterables, which would make the rollouts
    stale. It shares the rows among the ranks by itself (see :class:`PromptSampler`).

    Inside Lightning nothing more is needed. In a loop of one's own, call
    ``loader.sampler.set_epoch(epoch)`` before each epoch::

        loader = PromptLoader(prompts, prompts_per_batch=8, steps_per_batch=4)
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                ...

    Args:
        dataset: The prompts to deal.
        prompts_per_batch: Prompts of a batch on one rank, B.
        steps_per_batch: How often each batch is dealt in a row (micro-batches × iterations).
        shuffle: Draw a new order each epoch, seeded by (``seed``, epoch).
        seed: Seed of the order.
        rank: This process's share.
        world_size: Processes that share the prompts.
        drop_last: Leave out the prompts that do not fill a batch on every rank (training);
            otherwise all are dealt, once each (evaluation).
        batches_counted: Returns how many batches of the current epoch a trainer has counted so far.
            It is asked after a resume, when the trainer's epoch number leaves open whether the
            epoch of the loaded state goes on. None for a loop of one's own: then the state's epoch
            goes on if ``set_epoch`` is called with its number, or not at all.
        steps_to_redo: Returns how many of the steps dealt last a trainer has to make again when it
            resumes, as after a checkpoint between two optimizer steps; they are dealt again.

    Raises:
        ValueError: If a number is out of range or there are too few prompts.
    """

    # Lightning reads it beside `sampler` when it looks for shuffled evaluation loaders.
    batch_sampler = None

    def __init__(
        self,
        dataset: PromptSet,
        prompts_per_batch: int,
        steps_per_batch: int = 1,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
        batches_counted: Callable[[], int] | None = None,
        steps_to_redo: Callable[[], int] = lambda: 0,
    ) -> None:
        if steps_per_batch < 1:
            raise ValueError(f"steps_per_batch is {steps_per_batch}; it must be 1 or more")
        self.prompt_set = dataset
        self.steps_per_batch = steps_per_batch
        self.sampler = PromptSampler(
            len(dataset),
            prompts_per_batch,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
        )
        self._batches_counted = batches_counted
        self._steps_to_redo = steps_to_redo
        self._epoch = 0
        self._dealt = 0  # steps dealt in that epoch
        self._resumed = False  # whether the next pass continues from a loaded state
        self._ahead = 0  # by how much the sampler's epoch, which Lightning sets, is greater

    def __len__(self) -> int:
        """Return the training steps of one epoch (the batches, in evaluation)."""
        return self.sampler.num_rollouts * self.steps_per_batch

    def __iter__(self) -> Iterator[PromptBatch]:
        # A generator, so that epoch and position are looked at when the first batch is asked for:
        # Lightning creates iterators before it calls set_epoch, and throws some of them away.
        self._begin_pass()
        order = self.sampler.order(self._epoch)
        batch: PromptBatch | None = None
        for position in range(self._dealt, len(self)):
            rollout, step = divmod(position, self.steps_per_batch)
            if batch is None or step == 0:
                batch = self.prompt_set.batch(order[self.sampler.share(rollout)])
            self._dealt = position + 1
            yield replace(
                batch, epoch=self._epoch, rollout=rollout, step=step, steps=self.steps_per_batch
            )

    def spare(self, epoch: int, rollout: int, turn: int, count: int) -> PromptBatch:
        """Return other prompts than the rollout was dealt, see :meth:`PromptSampler.spare`.

        The loader's own order goes on as if none had been taken.
        """
        batch = self.prompt_set.batch(self.sampler.spare(epoch, rollout, turn, count))
        return replace(batch, epoch=epoch, rollout=rollout, steps=self.steps_per_batch)

    def _begin_pass(self) -> None:
        """Settle which epoch this pass belongs to, and where in it the pass starts."""
        named = self.sampler.epoch
        if not self._resumed:
            self._epoch, self._dealt = named - self._ahead, 0
            return
        self._resumed = False
        if self._batches_counted is None:
            if named != self._epoch:
                self._epoch, self._dealt = named, 0
            return
        # Lightning's epoch number does not tell whether the resumed epoch goes on: the number moves
        # on when max_steps ends a run within an epoch, and twice after a checkpoint that was taken
        # at the end of an epoch with max_steps set. Its count of the epoch's batches does.
        if self._dealt and not self._batches_counted():
            self._epoch, self._dealt = self._epoch + 1, 0
        self._ahead = named - self._epoch

    def state_dict(self) -> dict[str, int]:
        """Return the position (the same on all ranks) and what it is only valid for."""
        done = self._dealt - self._steps_to_redo()
        return {"epoch": self._epoch, "position": done, **self.validity()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue from a position: the next iteration deals what remained of that epoch.

        Args:
            state_dict: What :meth:`state_dict` returned.

        Raises:
            ValueError: If the state belongs to another number of prompts, other batch sizes or
                another seed, so that "what remained" has no meaning.
        """
        validity = self.validity()
        changed = [
            f"{key} was {state_dict.get(key)} and is {now}"
            for key, now in validity.items()
            if state_dict.get(key) != now
        ]
        if changed:
            raise ValueError(
                "the checkpoint's position in the data does not fit this run: "
                f"{', '.join(changed)}. Resume with the settings of the first run, or start a new "
                "run from the checkpoint's weights"
            )
        self._epoch, self._dealt = state_dict["epoch"], state_dict["position"]
        self._resumed = True
        self.sampler.set_epoch(self._epoch)

    def validity(self) -> dict[str, int]:
        """Return what a position is only valid for."""
        return {
            "data": self.prompt_set.fingerprint,
            "prompts": len(self.prompt_set),
            "prompts_per_rollout": self.sampler.prompts_per_rollout,
            "steps_per_rollout": self.steps_per_batch,
            "seed": self.sampler.seed,
            "shuffle": int(self.sampler.shuffle),
        }
