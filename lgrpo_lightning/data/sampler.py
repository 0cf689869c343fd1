"""Which rows each rank gets, rollout by rollout: the order of an epoch and how ranks share it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import SequentialSampler


class PromptSampler(SequentialSampler):
    """Row numbers of one rank, rollout by rollout, for one epoch.

    With ``perm`` the epoch's order of all rows, B ``prompts_per_batch`` and W ``world_size``,
    rollout k consists of ``perm[k·B·W : (k+1)·B·W]`` and rank r gets the r-th of its W equal
    slices. So the global order depends on B·W only, not on how many ranks share it.

    It calls itself sequential because Lightning replaces every other sampler when
    ``overfit_batches`` is set.

    Args:
        num_rows: Rows of the data set.
        prompts_per_batch: Prompts of one rollout on one rank, B.
        shuffle: Draw a new order each epoch, seeded by (``seed``, epoch), equal on all ranks.
        seed: Seed of the order, 0 or more.
        rank: Which of the ``world_size`` shares this is.
        world_size: Ranks that share the rows.
        drop_last: Leave out the rows that do not fill a rollout. Otherwise they are shared as
            evenly as possible, without padding and without duplicates. A remainder of fewer rows
            than ranks joins the rollout before it (one more row for some ranks), because a rank
            with fewer batches than the others would leave them waiting in collective calls.

    Raises:
        ValueError: If a number is out of range, or there are too few rows for one rollout
            (``drop_last``) or for one row on each rank.
    """

    def __init__(
        self,
        num_rows: int,
        prompts_per_batch: int,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool,
    ) -> None:
        super().__init__(range(num_rows))
        if prompts_per_batch < 1:
            raise ValueError(f"prompts_per_batch is {prompts_per_batch}; it must be 1 or more")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; with world_size {world_size} it must be below that")
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must be 0 or more")
        self.num_rows = num_rows
        self.rank = rank
        self.world_size = world_size
        self.prompts_per_batch = prompts_per_batch
        self.prompts_per_rollout = prompts_per_batch * world_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._bounds = self._rollout_bounds(drop_last)

    def _rollout_bounds(self, drop_last: bool) -> list[int]:
        """Return where each rollout starts in the epoch's order, and where the last one ends."""
        rows, size = self.num_rows, self.prompts_per_rollout
        if drop_last:
            if rows < size:
                raise ValueError(
                    f"{rows} prompts do not fill one rollout of {size} "
                    f"({size // self.world_size} per process × {self.world_size} processes); "
                    "lower prompts_per_rollout, use fewer processes or give more prompts"
                )
            return list(range(0, rows + 1, size))
        if rows < self.world_size:
            raise ValueError(
                f"{rows} prompts cannot be shared by {self.world_size} processes; "
                "evaluate with fewer processes or more prompts"
            )
        bounds = [*range(0, rows, size), rows]
        if rows - bounds[-2] < self.world_size and len(bounds) > 2:
            del bounds[-2]
        return bounds

    @property
    def num_rollouts(self) -> int:
        """Rollouts of one epoch."""
        return len(self._bounds) - 1

    def set_epoch(self, epoch: int) -> None:
        """Name the epoch that comes next. Lightning calls it before every epoch."""
        self.epoch = epoch

    def order(self, epoch: int) -> list[int]:
        """Return all row numbers in an epoch's order, the same on all ranks."""
        if not self.shuffle:
            return list(range(self.num_rows))
        generator = np.random.default_rng((self.seed, epoch))
        order: list[int] = generator.permutation(self.num_rows).tolist()
        return order

    def share(self, rollout: int) -> slice:
        """Return which part of the epoch's order this rank gets in a rollout."""
        start, end = self._bounds[rollout : rollout + 2]
        size = end - start
        return slice(
            start + size * self.rank // self.world_size,
            start + size * (self.rank + 1) // self.world_size,
        )

    def spare(self, epoch: int, rollout: int, turn: int, count: int) -> list[int]:
        """Return rows for prompts of a rollout that are to be replaced.

        Drawn by (``seed``, epoch, rollout) from all rows that the rollout was not dealt, the same
        order on all ranks, of which each rank and turn has a part of its own. So no row comes twice
        while there are enough, and nothing but the arguments needs to be known for a resume.

        Args:
            epoch: Epoch of the rollout.
            rollout: Its index within the epoch.
            turn: How often rows were drawn for it before.
            count: How many are wanted, at most ``prompts_per_batch``.
        """
        start, end = self._bounds[rollout : rollout + 2]
        rows = np.setdiff1d(np.arange(self.num_rows), self.order(epoch)[start:end])
        if not len(rows):  # the rollout has them all
            rows = np.arange(self.num_rows)
        order = np.random.default_rng((self.seed, epoch, rollout, 1)).permutation(rows)
        start = (turn * self.world_size + self.rank) * self.prompts_per_batch
        spare: list[int] = order[np.arange(start, start + count) % len(order)].tolist()
        return spare

    def __iter__(self) -> Iterator[int]:
        order = self.order(self.epoch)
        for rollout in range(self.num_rollouts):
            yield from order[self.share(rollout)]

    def __len__(self) -> int:
        shares = [self.share(rollout) for rollout in range(self.num_rollouts)]
        return sum(share.stop - share.start for share in shares)
