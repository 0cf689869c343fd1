"""Tracks how far the policy has moved from its reference and from the policy that sampled."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lgrpo_callbacks.cadence import Cadence
from lgrpo_callbacks.kl_controller import KLController, positive_kl_coef, set_kl_coef
from lgrpo_callbacks.kl_terms import ESTIMATORS, kl_terms, position_name
from lgrpo_callbacks.metrics import MaskedMeans, MeansAndWeights
from lgrpo_callbacks.outputs import require_keys
from lgrpo_callbacks.ranks import gather_objects
from lgrpo_callbacks.tables import shorten

_KEYS = ("loss", "logprobs", "old_logprobs", "ref_logprobs", "mask")


class KLTracker(Callback):
    """Logs KL divergences once per optimizer step, averaged over all its tokens on all ranks.

    Logged, all but the last two as means over tokens:

    - ``kl/sampler_k1``, ``_k2``, ``_k3``: KL(policy‖sampler), see
      :func:`~lgrpo_callbacks.metrics.kl_estimates`; ``kl/sampler`` is k3;
    - ``kl/ref_k1``, ``_k2``, ``_k3``, ``kl/ref``: KL(policy‖reference), if there are reference
      log-probs; ``kl`` on the progress bar is the same as ``kl/ref``;
    - ``kl/ref_part_1_of_4`` …: ``kl/ref`` (without a reference ``kl/sampler_part_…``) in each part
      of the completions, so that a drift late in long answers is seen;
    - ``kl/ratio`` and ``kl/outside_clip``: policy/sampler, and the share of tokens where it lies
      outside [1 − clip_low, 1 + clip_high];
    - ``kl/entropy``: if ``training_step`` returns ``entropy``;
    - ``kl/coef``: the coefficient, with ``target``.

    Lightning passes values on to the loggers every ``log_every_n_steps`` optimizer steps, 50 unless
    the Trainer is told otherwise.

    From ``training_step`` it reads ``loss``, ``logprobs``, ``old_logprobs``, ``ref_logprobs`` (or
    None), ``mask``, each [M, T] but the loss, and, where given, ``entropy`` [M, T] and ``prompts``.

    Args:
        stop_above: stop training, on all ranks together, after an optimizer step with ``kl/ref``
            above this, in nats per token; None for never. The reason is printed and kept in
            ``stop_reason``.
        target: steer ``pl_module.loss.kl_coef`` towards this ``kl/ref``, in nats per token, see
            :class:`~lgrpo_callbacks.kl_controller.KLController`; None to leave it alone. The
            coefficient is part of checkpoints.
        horizon: the controller's time constant, in completions.
        position_bins: number of parts of a completion; None for no KL by position.
        clip_low: lower clip range.
        clip_high: upper clip range; None for ``clip_low``.

    Raises:
        ValueError: if an argument is out of range, a key is missing, or ``stop_above`` or
            ``target`` is set although there are no reference log-probs.
        FloatingPointError: if loss or KL is NaN or infinite in an optimizer step; names the step
            and the prompts to blame, on all ranks together.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from lgrpo_callbacks import KLTracker
        >>> tracker = KLTracker(stop_above=0.5, position_bins=4)
        >>> trainer = Trainer(callbacks=[tracker], log_every_n_steps=1, logger=False)
    """

    def __init__(
        self,
        stop_above: float | None = None,
        target: float | None = None,
        horizon: int = 10_000,
        position_bins: int | None = 4,
        clip_low: float = 0.2,
        clip_high: float | None = None,
    ) -> None:
        if stop_above is not None and not stop_above > 0:
            raise ValueError(f"stop_above must be positive (nats per token), got {stop_above}")
        if position_bins is not None and position_bins < 1:
            raise ValueError(f"position_bins must be 1 or more, or None, got {position_bins}")
        if not 0 <= clip_low <= 1:
            raise ValueError(f"clip_low must be between 0 and 1, got {clip_low}")
        if clip_high is not None and not clip_high >= 0:
            raise ValueError(f"clip_high must be 0 or more, or None, got {clip_high}")
        self.stop_above = stop_above
        self.controller = None if target is None else KLController(target, horizon)
        self.position_bins = position_bins or 0
        self.clip_low = clip_low
        self.clip_high = clip_low if clip_high is None else clip_high
        self.stop_reason: str | None = None
        self._kl_coef: float | None = None
        self._means = MaskedMeans([*self._names(), "loss", "completions"])
        self._suspects: list[tuple[Tensor, list[str] | None]] = []
        self._logged: set[str] = set()
        self._cadence = Cadence()

    def _names(self) -> list[str]:
        names = ["ratio", "outside_clip", "entropy"]
        for kind in ("ref", "sampler"):
            names += [f"{kind}_{estimator}" for estimator in ESTIMATORS]
            names += [position_name(kind, i, self.position_bins) for i in range(self.position_bins)]
        return names

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting, and put a restored coefficient back in its place."""
        self._means = self._means.to(pl_module.device)
        self._means.reset()
        self._suspects.clear()
        self._logged.clear()
        self._cadence.start(trainer)
        self.stop_reason = None
        if self.controller is not None:
            if self._kl_coef is not None:
                set_kl_coef(pl_module, self._kl_coef)
            self._kl_coef = positive_kl_coef(pl_module)

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's type is wider than what is accepted
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Count a micro-batch; after the last one of an optimizer step, log."""
        found = require_keys(outputs, _KEYS, self, pl_module, "training_step")
        self._check_reference(found, pl_module)
        self._count(found)
        if not self._cadence.step_ended(trainer):
            return
        self._finish_step(trainer, pl_module)

    def _check_reference(self, outputs: Mapping[str, Any], pl_module: LightningModule) -> None:
        wanted = "stop_above" if self.stop_above is not None else "target"
        if outputs["ref_logprobs"] is None and (self.stop_above is not None or self.controller):
            raise ValueError(
                f"KLTracker({wanted}=…) needs the KL to the reference, but ref_logprobs of "
                f"{type(pl_module).__name__}.training_step is None; use a KL coefficient above 0 "
                f"so that there is a reference, or leave out {wanted}"
            )

    def _count(self, outputs: Mapping[str, Any]) -> None:
        measured = kl_terms(outputs, self.clip_low, self.clip_high, self.position_bins)
        for values, mask in measured.terms:
            self._means.update(values, mask)
        one = torch.ones((), dtype=torch.bool, device=measured.suspects.device)
        self._means.update({"loss": outputs["loss"].detach()}, one)
        self._means.update({"completions": measured.suspects}, torch.ones_like(measured.suspects))
        self._suspects.append((measured.suspects, outputs.get("prompts")))

    def _finish_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        result: MeansAndWeights = self._means.compute()  # sums over ranks
        means, weights = torch.stack(
            [torch.stack(list(part.values())) for part in result]
        ).tolist()  # one copy to the CPU
        mean = dict(zip(result.means, means, strict=True))
        weight = dict(zip(result.weights, weights, strict=True))
        broken = [name for name, value in mean.items() if weight[name] and not math.isfinite(value)]
        if broken:
            self._raise_broken(trainer, broken)
        self._means.reset()
        self._suspects.clear()
        completions = weight.pop("completions")
        del weight["loss"]
        self._log(pl_module, {name: mean[name] for name in self._worth_logging(weight)})
        if weight["ref_k3"]:
            self._steer(pl_module, mean["ref_k3"], completions)
            self._stop(trainer, mean["ref_k3"])

    def _worth_logging(self, weight: dict[str, float]) -> list[str]:
        # A name once logged is logged again, as NaN if nothing was counted: Lightning would
        # otherwise repeat its last value.
        self._logged |= {name for name in weight if weight[name]}
        return [name for name in weight if name in self._logged]

    def _log(self, pl_module: LightningModule, means: dict[str, float]) -> None:
        # "kl/ref" and "kl/sampler" are k3: unbiased, never negative, and what most losses use.
        values = {f"kl/{name}": value for name, value in means.items()}
        values |= {f"kl/{n[:-3]}": value for n, value in means.items() if n.endswith("_k3")}
        pl_module.log_dict(values, on_step=True, on_epoch=False, batch_size=1)
        if "ref_k3" in means:
            pl_module.log("kl", means["ref_k3"], prog_bar=True, logger=False, batch_size=1)

    def _steer(self, pl_module: LightningModule, kl: float, completions: float) -> None:
        if self.controller is None or self._kl_coef is None:
            return
        self._kl_coef = self.controller.next_coefficient(self._kl_coef, kl, completions)
        set_kl_coef(pl_module, self._kl_coef)
        pl_module.log("kl/coef", self._kl_coef, on_step=True, on_epoch=False, batch_size=1)

    def _stop(self, trainer: Trainer, kl: float) -> None:
        if self.stop_above is None or kl <= self.stop_above:
            return
        # Every rank has the same sum and thus comes to the same decision.
        trainer.should_stop = True
        self.stop_reason = (
            f"KLTracker stopped training after optimizer step {trainer.global_step}: KL(policy‖"
            f"reference) is {kl:.4g} nats per token, above stop_above={self.stop_above}"
        )
        rank_zero_info(self.stop_reason)

    def _raise_broken(self, trainer: Trainer, names: list[str]) -> None:
        """Raise on all ranks; a rank that went on alone would wait for the others for ever."""
        mine = [
            f"completion {row}" if prompts is None else repr(shorten(str(prompts[row]), 200))
            for suspects, prompts in self._suspects
            for row in suspects.nonzero().flatten().tolist()
        ]
        found = [
            f"{who} (rank {rank})"
            for rank, suspects in enumerate(gather_objects(trainer, mine))
            for who in dict.fromkeys(suspects)
        ]
        names = ["loss" if name == "loss" else f"kl/{name}" for name in names]
        raise FloatingPointError(
            f"KLTracker: NaN or infinity in {', '.join(names)} of optimizer step "
            f"{trainer.global_step}, from {'; '.join(found)}. Look at the log-probs and advantages "
            f"there; a lower learning rate or gradient clipping may help"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the steered coefficient."""
        return {"kl_coef": self._kl_coef}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the coefficient; it is set when training starts."""
        self._kl_coef = state_dict["kl_coef"]
