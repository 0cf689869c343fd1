"""Running a causal language model up to its head, and the chunked head in the head's place.

The head is replaced for one pass by hooks, so that it runs inside the model's own forward: there,
wrappers that gather sharded weights (FSDP2), count gradients (DDP) or adapt layers (peft) have done
their part, and their post-forward hooks see our results as the model's output.

Legend: n tokens to score, D hidden size, V vocabulary.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from lgrpo_lightning.policy.head import selected_logprobs
from lgrpo_lightning.policy.logit_tiles import LogitTransform
from lgrpo_lightning.policy.support import causal_lm

log = logging.getLogger(__name__)

# Models whose logits are more than their head and the transform read from their configuration.
_UNKNOWN_HEADS: WeakSet[nn.Module] = WeakSet()
_KNOWN_HEADS: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True, eq=False)
class TokenScores:
    """What is known of some tokens under a model, in float32 or wider.

    Attributes:
        logprobs: log-probs of the tokens, differentiable.
        entropy: entropies in nats of the distributions they were drawn from, without gradient;
            None where it was not asked for.
    """

    logprobs: Tensor
    entropy: Tensor | None

    @property
    def extra(self) -> dict[str, Tensor]:
        """What was asked for besides log-probs, by name."""
        return {} if self.entropy is None else {"entropy": self.entropy}


def token_scores(
    model: nn.Module,
    inputs: dict[str, Any],
    take: Tensor,
    targets: Tensor,
    temperature: float,
    allowed_tokens: Sequence[int] | None,
    return_entropy: bool,
    fused: bool = False,
) -> TokenScores:
    """Score n tokens from the hidden states that predict them.

    Args:
        model: a causal language model of transformers, or a peft model around one.
        inputs: the model's keyword arguments.
        take: [n] long, places in the flattened hidden states.
        targets: [n] long, the tokens they predict.
        temperature: τ.
        allowed_tokens: the tokens that could be sampled; None for all.
        return_entropy: also compute entropies.
        fused: see :func:`~lgrpo_lightning.policy.head.selected_logprobs`.

    Raises:
        ValueError: if the model has no head, or a token is not allowed.
    """
    base = causal_lm(model)
    head: nn.Module | None = base.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        raise ValueError(f"{type(base).__name__} has no language-modelling head")
    request = _Request(take, targets, temperature, allowed_tokens, return_entropy, fused)
    if isinstance(head, nn.Linear) and base not in _UNKNOWN_HEADS:
        transform = logit_transform(base)
        hooks = _ChunkedHead(request, transform)
        scores = hooks.run(model, head, inputs)
        if base in _KNOWN_HEADS or hooks.explains_logits():
            _KNOWN_HEADS.add(base)
            return scores
        _UNKNOWN_HEADS.add(base)
    if base not in _KNOWN_HEADS:
        _KNOWN_HEADS.add(base)
        log.warning(
            "the head of %s is not a plain linear layer with a known scale and soft cap: all its "
            "logits are computed at once, which takes much memory with a large vocabulary",
            type(base).__name__,
        )
    return _plain_scores(model, head, inputs, request)


def logit_transform(base: PreTrainedModel) -> LogitTransform:
    """What the model's configuration says is done to the head's output."""
    config = base.config.get_text_config()
    scale = getattr(config, "logit_scale", None)  # Cohere
    divisor = getattr(config, "logits_scaling", None)  # Granite
    if scale is None:
        scale = 1.0 if divisor is None else 1.0 / divisor
    return LogitTransform(scale, getattr(config, "final_logit_softcapping", None))  # Gemma 2


@dataclass(frozen=True, eq=False)
class _Request:
    """The arguments of :func:`token_scores` that concern the head."""

    take: Tensor
    targets: Tensor
    temperature: float
    allowed_tokens: Sequence[int] | None
    return_entropy: bool
    fused: bool


class _ChunkedHead:
    """The hooks of one pass: score in the head's place, and let a single token through it."""

    def __init__(self, request: _Request, transform: LogitTransform) -> None:
        self.request = request
        self.transform = transform
        self.hidden: Tensor | None = None
        self.scores: TokenScores | None = None
        self.passed: Tensor | None = None
        self.expected: Tensor | None = None
        self.logits: Tensor | None = None

    def run(self, model: nn.Module, head: nn.Module, inputs: dict[str, Any]) -> TokenScores:
        handles = [
            head.register_forward_pre_hook(self._before_head),
            # First among its kind, while gathered weights are still there.
            head.register_forward_hook(self._after_head, prepend=True),
            model.register_forward_hook(self._after_model, prepend=True),
        ]
        try:
            model(**inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        assert self.scores is not None
        return self.scores

    def explains_logits(self) -> bool:
        """Whether the model's own logits of the one token are what the transform makes of them."""
        assert self.expected is not None
        assert self.logits is not None
        if self.logits.shape != self.expected.shape:
            return False
        # Two paths through half precision differ by a percent; another scale or cap by more.
        error = (self.logits.to(self.expected.dtype) - self.expected).abs().max()
        return bool(error <= 0.02 * self.expected.abs().max())

    def _before_head(self, head: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        hidden: Tensor = args[0]
        self.hidden = hidden.flatten(0, -2).index_select(0, self.request.take)
        return (hidden.flatten(0, -2)[-1:].unsqueeze(0),)

    def _after_head(self, head: nn.Linear, args: tuple[Any, ...], output: Tensor) -> Tensor:
        assert self.hidden is not None
        request = self.request
        with torch.no_grad():
            self.expected = self.transform(F.linear(args[0], head.weight, head.bias))
        weight: Tensor = head.weight
        bias: Tensor | None = head.bias
        targets = request.targets
        if request.allowed_tokens is not None:
            allowed = torch.as_tensor(request.allowed_tokens, device=targets.device)
            targets = columns_of(targets, allowed, len(weight))
            weight = weight[allowed]
            bias = None if bias is None else bias[allowed]
        self.scores = TokenScores(
            *selected_logprobs(
                self.hidden,
                weight,
                bias,
                targets,
                LogitTransform(self.transform.scale, self.transform.soft_cap, request.temperature),
                request.return_entropy,
                request.fused,
            )
        )
        self.hidden = None
        # The output has a graph of its own, without weights: nothing but the order is of interest.
        self.passed = output.detach() + torch.zeros((), device=output.device, requires_grad=True)
        return self.passed

    def _after_model(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> dict[str, Any]:  # noqa: ANN401
        assert self.scores is not None
        self.logits = output.logits.detach()
        logprobs: Tensor = _GatherFirst.apply(self.scores.logprobs, self.passed)  # type: ignore[no-untyped-call]
        self.scores = TokenScores(logprobs, self.scores.entropy)
        # What wrappers hook to the outputs (such as gathering weights for backward) must find the
        # scores there, with their graph.
        return {"logprobs": self.scores.logprobs, "entropy": self.scores.entropy}


class _GatherFirst(torch.autograd.Function):
    """The log-probs, with the head's output as a second input of no effect.

    A head that is sharded by itself is gathered again for backward when a gradient reaches its
    output. Autograd runs what was recorded last first, so that the output, recorded after the
    log-probs, comes before their backward pass needs the weights.
    """

    @staticmethod
    def forward(ctx: Any, logprobs: Tensor, passed: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(passed)
        return logprobs.clone()  # a view would make FSDP2 warn of changes in place

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        (passed,) = ctx.saved_tensors
        return gradient, torch.zeros_like(passed)


def _plain_scores(
    model: nn.Module, head: nn.Module, inputs: dict[str, Any], request: _Request
) -> TokenScores:
    """The same from the model's own logits, of the n tokens only."""

    def before_head(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        return (args[0].flatten(0, -2).index_select(0, request.take).unsqueeze(0),)

    handle = head.register_forward_pre_hook(before_head)
    try:
        logits = model(**inputs, use_cache=False).logits[0]  # [n, V]
    finally:
        handle.remove()
    scaled = LogitTransform(temperature=request.temperature)(logits)
    targets = request.targets
    if request.allowed_tokens is not None:
        allowed = torch.as_tensor(request.allowed_tokens, device=targets.device)
        targets, scaled = columns_of(targets, allowed, scaled.shape[-1]), scaled[:, allowed]
    logprobs = scaled.log_softmax(-1)
    entropy = None
    if request.return_entropy:
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs).sum(-1)
    return TokenScores(logprobs.gather(1, targets.unsqueeze(1))[:, 0], entropy)


def columns_of(targets: Tensor, allowed: Tensor, vocabulary: int) -> Tensor:
    """Where each target stands among the allowed tokens.

    Raises:
        ValueError: if one is not among them.
    """
    columns = torch.full((vocabulary,), -1, device=targets.device)
    columns[allowed] = torch.arange(len(allowed), device=targets.device)
    found = columns[targets]
    if bool((found < 0).any()):
        token = int(targets[found < 0][0])
        raise ValueError(
            f"a completion holds token {token}, which is not among the {len(allowed)} "
            "allowed_tokens it could have been sampled from"
        )
    return found
