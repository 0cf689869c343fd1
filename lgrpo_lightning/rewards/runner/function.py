"""One reward function and its workers."""

from concurrent.futures import Future
from typing import Any

from lgrpo_lightning.rewards.runner.lane import Lane
from lgrpo_lightning.rewards.runner.messages import Arguments, Description
from lgrpo_lightning.rewards.runner.process import WorkerProcess
from lgrpo_lightning.rewards.runner.scoring import (
    Scores,
    check_references,
    score_each,
    score_whole,
)
from lgrpo_lightning.rewards.runner.spec import NamedReward


class RewardFunction:
    """A reward function that runs in worker processes.

    Args:
        reward: what it is.
        time_limit: seconds for each call.
    """

    def __init__(self, reward: NamedReward, time_limit: float) -> None:
        self.name = reward.name
        self.weight = reward.weight
        self.lanes = [Lane(reward.target)]
        self._target = reward.target
        self._time_limit = time_limit
        self._loading = self.lanes[0].submit(WorkerProcess.start)

    def wait_until_loaded(self, num_workers: int) -> None:
        """Wait for the first worker, and start the others where there is use for them.

        Args:
            num_workers: workers of a function that scores each completion by itself.

        Raises:
            ValueError: if the function can't be loaded.
        """
        description = self._loading.result()
        assert description is not None
        self.description: Description = description
        if description.per_completion:
            more = [Lane(self._target) for _ in range(num_workers - 1)]
            self.lanes += more
            for lane in more:
                lane.submit(WorkerProcess.start)  # an error comes up again when it is used

    def require(self, columns: dict[str, Any]) -> None:
        """Raise ValueError if the function can't be called without a column that is missing."""
        for name in self.description.required:
            if name not in columns:
                raise ValueError(
                    f"reward {self.name!r} needs the column {name!r}; the data set has "
                    f"{', '.join(map(repr, sorted(columns))) or 'none'}; map it with data.columns"
                )

    def check(self, columns: Arguments) -> "Future[None] | None":
        """Start checking the references of a data set, if the function can."""
        if not self.description.checks_references:
            return None
        return self.lanes[0].submit(check_references, self.name, self._accepted(columns))

    def submit(self, count: int, arguments: Arguments) -> "list[Future[Scores]]":
        """Start scoring; with W workers, worker w gets the completions w, w + W, w + 2 W …."""
        accepted = self._accepted(arguments)
        if not self.description.per_completion:
            return [self.lanes[0].submit(score_whole, count, accepted, self._time_limit)]
        step = len(self.lanes)
        return [
            lane.submit(
                score_each,
                len(range(first, count, step)),
                {name: values[first::step] for name, values in accepted.items()},
                self._time_limit,
            )
            for first, lane in enumerate(self.lanes)
        ]

    def _accepted(self, arguments: Arguments) -> Arguments:
        accepts = self.description.accepts
        if accepts is None:
            return arguments
        return {name: values for name, values in arguments.items() if name in accepts}
