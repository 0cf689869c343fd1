"""What the loss must keep to whatever the arguments: padding, micro-batches, λ, errors."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.objective import LambdaGRPOLoss, LossInputs, row_denominators
from lgrpo_lightning.tree import ProcessTree

AGGREGATIONS = ("group-token-mean", "token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
SURROGATES = ("ppo", "cispo", "gspo")
B, G, T = 3, 4, 6


def whole_batch(aggregation: str = "group-token-mean", seed: int = 0) -> LossInputs:
    """Three groups of four completions over three tokens, off-policy, with empty completions."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 3, (B, G, T), generator=generator)
    lengths = torch.tensor([[6, 3, 1, 4], [0, 2, 6, 6], [5, 5, 0, 1]])
    mask = torch.arange(T) < lengths.unsqueeze(-1)
    tree = ProcessTree.from_completions(ids, mask)
    noise = torch.randn(5, B * G, T, generator=generator, dtype=torch.float64)
    logprobs = -noise[0].abs()
    return LossInputs(
        logprobs=logprobs.requires_grad_(),
        old_logprobs=logprobs.detach() + 0.4 * noise[1],
        ref_logprobs=logprobs.detach() + 0.4 * noise[2],
        advantages=noise[3, :, 0],
        mask=mask.flatten(0, 1),
        set_sizes=tree.set_sizes.flatten(0, 1),
        denominators=row_denominators(mask, aggregation).flatten(),
        importance_weights=noise[4].abs(),
    )


def rows_of(inputs: LossInputs, rows: list[int]) -> LossInputs:
    """A micro-batch: the given rows of a batch."""
    parts = {
        item.name: getattr(inputs, item.name)[rows].detach() for item in dataclasses.fields(inputs)
    }
    return LossInputs(**parts | {"logprobs": parts["logprobs"].requires_grad_()})


def value_and_gradient(
    loss: LambdaGRPOLoss, inputs: LossInputs
) -> tuple[torch.Tensor, torch.Tensor]:
    value = loss(inputs).loss
    (gradient,) = torch.autograd.grad(value, inputs.logprobs)
    return value.detach(), gradient


@given(
    st.permutations(range(B * G)),
    st.sets(st.integers(1, B * G - 1), max_size=4),
    st.sampled_from(AGGREGATIONS),
    st.sampled_from(SURROGATES),
    st.booleans(),
)
def test_micro_batches_add_up_to_the_whole(rows, cuts, aggregation, surrogate, scaling):
    """However a rollout is cut and shuffled, also through groups: same loss, gradient, metrics."""
    loss = LambdaGRPOLoss(scaling, surrogate, kl_coef=0.1)
    inputs = whole_batch(aggregation)
    whole, whole_gradient = value_and_gradient(loss, inputs)
    edges = [0, *sorted(cuts), B * G]
    total, gradient = torch.zeros(()), torch.zeros_like(whole_gradient)
    metrics: dict[str, float] = {}
    for start, end in pairwise(edges):
        part = rows_of(inputs, list(rows[start:end]))
        value, gradient[list(rows[start:end])] = value_and_gradient(loss, part)
        total = total + value
        for name, metric in loss(part).metrics.items():
            metrics[name] = metrics.get(name, 0) + metric.item()
    torch.testing.assert_close(total, whole, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-9, atol=1e-12)
    expected = {name: metric.item() for name, metric in loss(inputs).metrics.items()}
    assert metrics == pytest.approx(expected)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("scaling", [True, False])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_padding_never_reaches_value_gradient_or_metrics(surrogate, scaling, poison):
    loss = LambdaGRPOLoss(scaling, surrogate, kl_coef=0.1)
    clean = whole_batch()
    names = ("logprobs", "old_logprobs", "ref_logprobs", "importance_weights")
    poisoned = dataclasses.replace(
        clean,
        **{name: getattr(clean, name).detach().masked_fill(~clean.mask, poison) for name in names},
        set_sizes=clean.set_sizes.masked_fill(~clean.mask, 99),
    )
    poisoned.logprobs.requires_grad_()
    value, gradient = value_and_gradient(loss, poisoned)
    expected, expected_gradient = value_and_gradient(loss, clean)
    assert torch.equal(value, expected)
    assert torch.equal(gradient, expected_gradient)
    assert not gradient[~clean.mask].any()
    for name, metric in loss(poisoned).metrics.items():
        assert torch.equal(metric, loss(clean).metrics[name]), name


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_without_scaling_all_sets_count_as_one(surrogate):
    inputs = whole_batch()
    ones = dataclasses.replace(inputs, set_sizes=torch.ones_like(inputs.set_sizes))
    plain = value_and_gradient(LambdaGRPOLoss(False, surrogate, kl_coef=0.1), inputs)
    scaled = value_and_gradient(LambdaGRPOLoss(True, surrogate, kl_coef=0.1), ones)
    assert torch.equal(plain[0], scaled[0])
    assert torch.equal(plain[1], scaled[1])
    assert inputs.set_sizes.max() > 1
    assert value_and_gradient(LambdaGRPOLoss(True, surrogate, kl_coef=0.1), inputs)[0] != plain[0]


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_no_advantage_no_policy_gradient(surrogate):
    """Equal rewards give advantage 0; what remains is the KL term."""
    still = dataclasses.replace(whole_batch(), advantages=torch.zeros(B * G))
    value, gradient = value_and_gradient(LambdaGRPOLoss(surrogate=surrogate), still)
    assert value == 0
    assert not gradient.any()
    value, gradient = value_and_gradient(LambdaGRPOLoss(surrogate=surrogate, kl_coef=0.1), still)
    assert value > 0
    assert gradient[still.mask].any()


@pytest.mark.parametrize("scaling", [True, False])
def test_rows_without_tokens_are_a_differentiable_zero(scaling):
    empty = [row for row in range(B * G) if not whole_batch().mask[row].any()]
    value, gradient = value_and_gradient(LambdaGRPOLoss(scaling), rows_of(whole_batch(), empty))
    assert value == 0
    assert not gradient.any()


def test_no_reference_is_needed_without_a_kl_term():
    inputs = whole_batch()
    without = dataclasses.replace(inputs, ref_logprobs=None)
    assert LambdaGRPOLoss()(without).loss == LambdaGRPOLoss()(inputs).loss
    assert "kl" not in LambdaGRPOLoss()(inputs).metrics
    with pytest.raises(ValueError, match=r"kl_coef is 0\.04.*ref_logprobs"):
        LambdaGRPOLoss(kl_coef=0.04)(without)


def test_the_coefficient_can_be_moved_during_training():
    inputs = whole_batch()
    loss = LambdaGRPOLoss()
    loss.kl_coef = 0.5
    assert loss(inputs).loss == LambdaGRPOLoss(kl_coef=0.5)(inputs).loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"surrogate": "trpo"}, r"surrogate must be one of .*got 'trpo'"),
        ({"kl_estimator": "k4"}, r"kl_estimator must be one of .*got 'k4'"),
        ({"clip_low": 1.2}, "clip_low must be between 0 and 1, got 1.2"),
        ({"clip_low": float("nan")}, "clip_low .* got nan"),
        ({"clip_high": -0.1}, "clip_high must be 0 or more, got -0.1"),
        ({"dual_clip": 1.1}, r"dual_clip .* above 1 \+ clip_high = 1\.2, got 1\.1"),
        ({"dual_clip": 3.0, "surrogate": "cispo"}, "dual_clip has no meaning .*cispo"),
        ({"kl_coef": -0.1}, "kl_coef must be 0 or more, got -0.1"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LambdaGRPOLoss(**options)


@pytest.mark.parametrize("name", [item.name for item in dataclasses.fields(LossInputs)])
def test_a_shape_that_would_broadcast_is_refused(name):
    inputs = whole_batch()
    wrong = {name: getattr(inputs, name)[:1]}
    if name == "logprobs":
        wrong = {name: inputs.logprobs[:, 0]}
    with pytest.raises(ValueError, match=rf"{name} must be \[.*\], got"):
        dataclasses.replace(inputs, **wrong)


def test_importance_weights_by_hand():
    """On-policy, r = 1/2: the KL term of a token is 0.1 · (ln 2 - 1/2), which w leaves alone."""
    logprobs = torch.full((2, 2), -1.0, dtype=torch.float64, requires_grad=True)
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=logprobs.detach(),
        ref_logprobs=logprobs.detach() - math.log(2),
        advantages=torch.tensor([2.0, -1.0]),
        mask=torch.ones(2, 2, dtype=torch.bool),
        set_sizes=torch.tensor([[2, 1], [2, 1]]),
        denominators=torch.tensor([4.0, 4.0]),
        importance_weights=torch.tensor([[0.5, 2.0], [1.0, 0.0]]),
    )
    kl = 0.1 * (math.log(2) - 0.5)
    # ((0.5·-2 + kl)/2 + (2·-2 + kl)/1 + (1·1 + kl)/2 + (0·1 + kl)/1) / 4
    value, _ = value_and_gradient(LambdaGRPOLoss(kl_coef=0.1), inputs)
    assert value.item() == pytest.approx((-4 + 3 * kl) / 4, abs=1e-12)
    _, gradient = value_and_gradient(LambdaGRPOLoss(), inputs)
    expected = torch.tensor([[-0.125, -1.0], [0.125, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)
    without = dataclasses.replace(inputs, importance_weights=torch.ones(2, 2))
    plain = dataclasses.replace(inputs, importance_weights=None)
    assert LambdaGRPOLoss()(without).loss == LambdaGRPOLoss()(plain).loss
