"""Lets the reference of the KL term follow the policy."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lgrpo_callbacks.attributes import find_attribute, refuse_sharded
from lgrpo_callbacks.cadence import Cadence


class ReferenceSync(Callback):
    """Moves the reference towards the policy every so many optimizer steps.

        reference ← α · policy + (1 − α) · reference

    With α = 1 the reference becomes the policy (as in TR-DPO's hard update, Gorbatovski et al.,
    arXiv 2404.09656), with a smaller α a running average of it (its soft update). Log-probs that
    were computed before stay as they are, so a rollout that is being worked off keeps its
    reference.

    It reads two attributes of the module, the policy and its reference, both ``nn.Module`` with
    parameters of the same names and shapes. All weights have to be trained: with a LoRA adapter the
    reference is usually the policy with its adapter switched off, which cannot be moved.

    Nothing is exchanged between processes: all have the same policy (``ddp``). After the first
    update, checkpoints hold the reference's weights, too, and a resumed run goes on with them; they
    grow by the size of the model. With weights in bfloat16, a small α is lost to rounding.

    Args:
        every_n_steps: optimizer steps between two updates.
        alpha: α, above 0 and at most 1.
        policy: name of the module's attribute that holds the policy, with dots for an attribute of
            an attribute.
        reference: the same for its reference.

    Raises:
        ValueError: if an argument is out of range, there is no such attribute, no reference that
            could be moved, its weights are not the policy's, or the model is split over processes.

    Example::

        >>> from lightning.pytorch import Trainer
        >>> from lgrpo_callbacks import ReferenceSync
        >>> sync = ReferenceSync(every_n_steps=100, alpha=0.6)
        >>> trainer = Trainer(callbacks=[sync], logger=False)
    """

    def __init__(
        self,
        every_n_steps: int,
        alpha: float = 1.0,
        policy: str = "policy",
        reference: str = "reference.frozen",
    ) -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")
        self._cadence = Cadence(every_n_steps)
        self.alpha = alpha
        self.policy = policy
        self.reference = reference
        self._moved: nn.Module | None = None  # the reference, once it is no longer the initial one
        self._restored: dict[str, Tensor] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there is a reference that can follow the policy."""
        refuse_sharded(trainer, self)
        policy, reference = self._models(pl_module)
        ours, theirs = _shapes(policy), _shapes(reference)
        differing = sorted(set(ours.items()) ^ set(theirs.items()))
        if differing:
            raise ValueError(
                f"ReferenceSync: {self.policy!r} and {self.reference!r} of "
                f"{type(pl_module).__name__} must have the same weights, but differ in "
                f"{len(differing)}, such as {differing[0]}; with an adapter on the policy alone, "
                "train all weights instead"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put a restored reference in its place."""
        self._moved = None
        self._cadence.start(trainer)
        # At step 0 nothing was restored, even if this object has served another run.
        if trainer.global_step and self._restored is not None:
            _, self._moved = self._models(pl_module)
            self._moved.load_state_dict(self._restored)
        self._restored = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - not read
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """After an optimizer step at which it is due, update the reference."""
        if self._cadence.step_ended(trainer) and self._cadence.due:
            policy, self._moved = self._models(pl_module)
            move_towards(self._moved, policy, self.alpha)

    def _models(self, pl_module: LightningModule) -> tuple[nn.Module, nn.Module]:
        policy = find_attribute(pl_module, self.policy, self, "policy")
        reference = find_attribute(pl_module, self.reference, self, "reference")
        if reference is None:
            raise ValueError(
                f"ReferenceSync: {self.reference!r} of {type(pl_module).__name__} is None, so no "
                "weights could follow the policy. With a LoRA adapter the reference is the policy "
                "itself with its adapter switched off: train all weights (lora: null) or remove "
                "ReferenceSync. Without a KL term there is no reference: set kl_coef above 0"
            )
        return policy, reference

    def state_dict(self) -> dict[str, Any]:
        """Return the reference's weights, on the CPU; None while it is still the initial one."""
        if self._moved is None:
            return {"reference": self._restored}
        state = {name: value.detach().cpu() for name, value in self._moved.state_dict().items()}
        return {"reference": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the reference's weights; they are put in place when training starts."""
        self._restored = state_dict["reference"]


@torch.no_grad()
def move_towards(reference: nn.Module, policy: nn.Module, alpha: float) -> None:
    """Set the reference to α · policy + (1 − α) · reference, in place.

    Buffers with numbers that are no floats are copied.
    """
    for old, new in zip(_tensors(reference).values(), _tensors(policy).values(), strict=True):
        new = new.to(device=old.device, dtype=old.dtype)
        if alpha == 1 or not old.is_floating_point():
            old.copy_(new)
        else:
            old.lerp_(new, alpha)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, tied ones once, in order of their names."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return dict(sorted(tensors.items()))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in _tensors(model).items()}
