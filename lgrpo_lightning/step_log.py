"""What is logged of an optimizer step: sums over its micro-batches and over all processes."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from lgrpo_lightning.metrics import NamedMeans, Throughput
from lgrpo_lightning.rollout.statistics import Totals


class StepLog:
    """Collects a module's figures and logs them once per optimizer step.

    Figures of the rollout stay the same for all steps made of it. Names get the prefix ``train/``;
    the progress bar shows ``reward`` and ``tok/s``, completion tokens trained on per second over
    all processes, the time for sampling and scoring included, that for evaluation not.

    Args:
        module: whose ``log`` is used.

    Attributes:
        rollout_figures: the means of the current rollout.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self.rollout_figures: dict[str, float] = {}
        self._step: Totals = {}
        self.clock = Throughput()

    def restart(self) -> None:
        """Forget an optimizer step that an earlier run did not complete."""
        self._step = {}

    @property
    def under_way(self) -> bool:
        """Whether micro-batches of the next optimizer step have been counted."""
        return bool(self._step)

    def rollout(self, totals: Totals) -> None:
        """Note the figures of a new rollout."""
        self.rollout_figures = self._reduced(totals)

    def micro_batch(
        self, loss: Tensor, metrics: dict[str, Tensor], by_token: dict[str, Tensor], mask: Tensor
    ) -> None:
        """Add a micro-batch.

        Args:
            loss: of the micro-batch.
            metrics: sums over its tokens, whose number is ``tokens``.
            by_token: [M, T], figures of which those under the mask are summed.
            mask: [M, T] bool, those tokens.
        """
        tokens = metrics["tokens"]
        one = torch.ones_like(tokens)
        summed = {name: values.where(mask, 0.0).sum() for name, values in by_token.items()}
        totals = {name: (value, tokens) for name, value in (metrics | summed).items()}
        totals |= {"tokens": (tokens, one), "loss": (loss.detach(), one)}
        for name, (total, count) in totals.items():
            before = self._step.get(name, (0.0, 0.0))
            self._step[name] = (before[0] + total, before[1] + count)

    def flush(self, batch_size: int) -> None:
        """Log the optimizer step that the last micro-batch completed."""
        figures = {**self._reduced(self._step), **self.rollout_figures}
        micro_batches = float(self._step["tokens"][1]) * self._module.trainer.world_size
        tokens = figures.pop("tokens") * micro_batches
        figures["tokens_per_second"] = tokens / max(self.clock.reading(), 1e-9)
        self._step = {}
        log = self._module.log
        for name, value in figures.items():
            log(f"train/{name}", value, batch_size=batch_size)
        log("reward", figures["reward"], prog_bar=True, logger=False, batch_size=batch_size)
        speed = figures["tokens_per_second"]
        log("tok/s", speed, prog_bar=True, logger=False, batch_size=batch_size)

    def _reduced(self, totals: Totals) -> dict[str, float]:
        means = NamedMeans(list(totals)).to(self._module.device)
        means.update(totals)
        return means.compute()
