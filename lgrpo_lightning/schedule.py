"""How a rollout is worked off: micro-batches, optimizer steps and iterations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RolloutSchedule:
    """The training steps made of one rollout on one process.

    One training step works on one micro-batch; ``accumulate`` of them make an optimizer step; all
    micro-batches make an iteration, of which there are ``num_iterations``.

    Args:
        num_prompts: B, prompts of a rollout on this process.
        group_size: G, completions of each.
        micro_batch_size: M, completions of a training step; None for all at once.
        num_iterations: passes over the rollout (μ of the paper's PPO notation).
        accumulate: the trainer's ``accumulate_grad_batches``.

    Raises:
        ValueError: if the rollout cannot be cut that way.
    """

    num_prompts: int
    group_size: int
    micro_batch_size: int | None = None
    num_iterations: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        """Check that micro-batches fill the rollout and optimizer steps fill an iteration."""
        total, size = self.num_completions, self.micro_batch_size
        if size is not None and (size < 1 or total % size):
            divisors = [number for number in range(1, total + 1) if total % number == 0]
            raise ValueError(
                f"micro_batch_size {size} does not divide the rollout of {self.num_prompts} "
                f"prompts × {self.group_size} completions = {total}; take one of {divisors}"
            )
        if self.num_micro_batches % self.accumulate:
            raise ValueError(
                f"accumulate_grad_batches {self.accumulate} does not divide the rollout's "
                f"{self.num_micro_batches} micro-batches, so an optimizer step would mix rollouts; "
                f"set it to {self.num_micro_batches} for one optimizer step per rollout, or change "
                "micro_batch_size"
            )

    @property
    def num_completions(self) -> int:
        """R = B·G."""
        return self.num_prompts * self.group_size

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of one iteration."""
        return self.num_completions // (self.micro_batch_size or self.num_completions)

    @property
    def most_of_a_group(self) -> int:
        """Completions of one group that a micro-batch holds at most."""
        return min(self.group_size, self.num_completions // self.num_micro_batches)

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, G and the number of micro-batches."""
        return self.num_prompts, self.group_size, self.num_micro_batches

    @property
    def num_steps(self) -> int:
        """Training steps of the rollout."""
        return self.num_micro_batches * self.num_iterations

    @property
    def on_policy(self) -> bool:
        """Whether the rollout makes just one optimizer step, from the policy that sampled it."""
        return self.num_iterations == 1 and self.num_micro_batches == self.accumulate

    def describe(self) -> str:
        """One line for the log."""
        optimizer_steps = self.num_steps // self.accumulate
        kind = "on-policy" if self.on_policy else "off-policy after the first, with old log-probs"
        return (
            f"a rollout is {self.num_prompts} prompts × {self.group_size} completions per process, "
            f"{_counted(self.num_micro_batches, 'micro-batch', 'es')} × "
            f"{_counted(self.num_iterations, 'iteration')} = "
            f"{_counted(self.num_steps, 'training step')}, "
            f"{_counted(optimizer_steps, 'optimizer step')} ({kind})"
        )


def _counted(number: int, noun: str, ending: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else ending}"
