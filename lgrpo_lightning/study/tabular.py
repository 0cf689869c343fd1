"""Many small policies side by side, each with a logit for every context, trained by the real loss.

Legend: R runs, G completions of a group, T tokens of a completion, N nodes of the binary tree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lgrpo_lightning.objective import (
    LambdaGRPOLoss,
    LossInputs,
    group_advantages,
    row_denominators,
)
from lgrpo_lightning.study.landscape import Trap
from lgrpo_lightning.tree import ProcessTree

Weighting = Literal["λ-GRPO", "GRPO", "times |λ|"]
OptimizerName = Literal["SGD", "Adam", "Adam, a weight per node"]

SOLVED = 0.9  # probability of the best completion from which on a run counts as solved


@dataclass(frozen=True)
class TabularRun:
    """How R policies are trained on a trap, one group per step and policy.

    Args:
        trap: the landscape.
        weighting: factor of a token's loss: 1/|λ| (``"λ-GRPO"``), 1 (``"GRPO"``), or |λ|.
        optimizer: ``"SGD"``; ``"Adam"`` with weights that all contexts share, as in a network: the
            logits are an orthogonal mix of them; or Adam with one weight for each context, which it
            then scales one by one. For SGD the two are the same.
        group_size: G.
        temperature: τ, of sampling and of the log-probs of the update.
        steps: optimizer steps.

    Raises:
        ValueError: if an argument is out of range.
    """

    trap: Trap
    weighting: Weighting
    optimizer: OptimizerName
    group_size: int
    temperature: float
    steps: int

    def __post_init__(self) -> None:
        """Check the arguments."""
        for name, value, known in (
            ("weighting", self.weighting, get_args(Weighting)),
            ("optimizer", self.optimizer, get_args(OptimizerName)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {known}, got {value!r}")
        if self.group_size < 2:
            raise ValueError(f"group_size must be at least 2, got {self.group_size}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def train(self, learning_rates: Sequence[float], runs: int, seed: int) -> Tensor:
        """Train ``runs`` policies with each learning rate, all of them at once.

        All learning rates see the same random numbers.

        Args:
            learning_rates: K of them.
            runs: policies for each.
            seed: of all that is random.

        Returns:
            [K, runs, steps], the probability of the best completion (at temperature 1) after each
            step.
        """
        generator = torch.Generator().manual_seed(seed)
        mix = self._mix()
        start = (self.trap.first_logits() @ mix).repeat(runs, 1)  # [runs, N]
        weights: list[Tensor] = [nn.Parameter(start.clone()) for _ in learning_rates]
        optimizer = self._optimizer(weights, learning_rates)
        history = torch.empty(len(weights) * runs, self.steps)
        for step in range(self.steps):
            logits = torch.cat(weights) @ mix.T  # [R, N], R = K · runs
            if step > 0:
                history[:, step - 1] = self._solution(logits)
            optimizer.zero_grad()
            self._loss(logits, len(weights), generator).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        history[:, -1] = self._solution(torch.cat(weights) @ mix.T)
        return history.view(len(weights), runs, self.steps)

    def _mix(self) -> Tensor:
        """[N, N] orthogonal: how the logits are made of the weights."""
        size = self.trap.num_nodes
        if self.optimizer == "Adam, a weight per node":
            return torch.eye(size)
        generator = torch.Generator().manual_seed(0)
        mix: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
        return mix

    def _optimizer(
        self, weights: list[Tensor], learning_rates: Sequence[float]
    ) -> torch.optim.Optimizer:
        groups = [
            {"params": [table], "lr": rate}
            for table, rate in zip(weights, learning_rates, strict=True)
        ]
        return torch.optim.SGD(groups) if self.optimizer == "SGD" else torch.optim.Adam(groups)

    @torch.no_grad()
    def _solution(self, logits: Tensor) -> Tensor:
        return self.trap.solution_probability(logits.sigmoid())

    def _loss(self, logits: Tensor, copies: int, generator: torch.Generator) -> Tensor:
        """Sample one group per policy; the sum of the policies' losses."""
        scaled = logits / self.temperature
        ids, rewards = self._sample(scaled.detach().sigmoid(), copies, generator)
        mask = torch.ones_like(ids, dtype=torch.bool)
        chosen = scaled.gather(1, self.trap.contexts(ids).flatten(1)).view(ids.shape)
        logprobs = nn.functional.logsigmoid(torch.where(ids == 1, chosen, -chosen))  # [R, G, T]
        # Every policy has a loss of its own, not a share of a mean over all of them.
        denominators = row_denominators(mask, "group-token-mean") / len(ids)
        return weighted_loss(
            self.weighting,
            logprobs,
            group_advantages(rewards),
            ProcessTree.from_completions(ids, mask).set_sizes,
            denominators,
        )

    def _sample(
        self, probabilities: Tensor, copies: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Completions [R, G, T] and their rewards [R, G]."""
        runs, size, length = len(probabilities) // copies, self.group_size, self.trap.length
        uniform = torch.rand(runs, size, length + 1, generator=generator).repeat(copies, 1, 1)
        ids = uniform.new_zeros((*uniform.shape[:2], length), dtype=torch.long)
        for place in range(length):
            # Contexts depend on earlier tokens only.
            nodes = self.trap.contexts(ids)[..., place]  # [R, G]
            ids[..., place] = (uniform[..., place] < probabilities.gather(1, nodes)).long()
        return ids, self.trap.rewards(ids, uniform[..., -1])


def weighted_loss(
    weighting: Weighting,
    logprobs: Tensor,
    advantages: Tensor,
    set_sizes: Tensor,
    denominators: Tensor,
) -> Tensor:
    """On-policy loss with tokens weighted by 1/|λ|, 1 or |λ|.

    Args:
        weighting: which.
        logprobs: [R, G, T].
        advantages: [R, G].
        set_sizes: [R, G, T] long.
        denominators: [R, G].
    """
    loss = LambdaGRPOLoss(process_set_scaling=weighting == "λ-GRPO")
    shape: tuple[int, ...] = logprobs.shape
    if weighting == "times |λ|":  # each token as a completion of its own, divided by d/|λ|
        advantages = advantages.unsqueeze(-1).expand(shape)
        denominators = denominators.unsqueeze(-1) / set_sizes
        shape = (*shape, 1)
    rows = logprobs.reshape(-1, shape[-1])
    sizes = set_sizes.reshape(rows.shape)
    return loss(
        LossInputs(
            logprobs=rows,
            old_logprobs=rows.detach(),
            ref_logprobs=None,
            advantages=advantages.reshape(-1),
            mask=torch.ones_like(sizes, dtype=torch.bool),
            set_sizes=sizes,
            denominators=denominators.reshape(-1),
        )
    ).loss
