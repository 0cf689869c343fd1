"""KL estimators and surrogates of single tokens, worked out by hand: value and gradient."""

import math

import pytest
import torch

from lgrpo_lightning.objective import LambdaGRPOLoss, LossInputs, kl_estimate


def token_loss(loss: LambdaGRPOLoss, ratio: float, advantage: float) -> tuple[float, float]:
    """The loss of one token of log-prob -1 and its gradient by the log-prob."""
    logprobs = torch.tensor([[-1.0]], dtype=torch.float64, requires_grad=True)
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=logprobs.detach() - math.log(ratio),
        ref_logprobs=None,
        advantages=torch.tensor([advantage]),
        mask=torch.tensor([[True]]),
        set_sizes=torch.tensor([[1]]),
        denominators=torch.tensor([1.0]),
    )
    value = loss(inputs).loss
    (gradient,) = torch.autograd.grad(value, logprobs)
    return value.item(), gradient.item()


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", math.log(2)), ("k2", math.log(2) ** 2 / 2), ("k3", 0.5 + math.log(2) - 1)],
)
def test_kl_estimators_at_r_one_half(estimator, expected):
    # π_θ = 1/2, π_ref = 1/4, so r = 1/2 and ln r = -ln 2.
    logprobs, ref = torch.tensor([0.5, 0.25], dtype=torch.float64).log()
    assert kl_estimate(logprobs, ref, estimator).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("estimator", "slope"), [("k1", 1), ("k2", math.log(2)), ("k3", 0.5)])
def test_kl_gradients_at_r_one_half(estimator, slope):
    # By log π_θ: k1' = 1, k2' = -ln r, k3' = 1 - r.
    logprobs = torch.tensor(0.5, dtype=torch.float64).log().requires_grad_()
    kl_estimate(logprobs, logprobs.detach() - math.log(2), estimator).backward()
    assert logprobs.grad.item() == pytest.approx(slope, rel=1e-12)


def test_kl_of_equal_policies_is_zero():
    logprobs = torch.randn(5)
    for estimator in ("k1", "k2", "k3"):
        assert not kl_estimate(logprobs, logprobs, estimator).any()


def test_unknown_kl_estimator_is_named():
    with pytest.raises(ValueError, match=r"'k1', 'k2', 'k3'.*got 'k4'"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),  # inside the range
        (1.5, 2.0, -2.4, 0.0),  # good and already more likely: held at 1.2
        (0.5, 2.0, -1.0, -1.0),  # good and less likely: free to recover
        (0.5, -2.0, 1.6, 0.0),  # bad and already less likely: held at 0.8
        (1.5, -2.0, 3.0, 3.0),  # bad and more likely: free to recover
        (9.0, -2.0, 18.0, 18.0),  # without bound
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_ppo(ratio, advantage, value, gradient):
    expected = pytest.approx((value, gradient), rel=1e-12)
    assert token_loss(LambdaGRPOLoss(), ratio, advantage) == expected


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.25, 1.0, -1.25, -1.25),  # clip-higher lets it pass
        (1.3, 1.0, -1.28, 0.0),
        (0.85, -1.0, 0.9, 0.0),  # the lower range is its own
        (0.95, -1.0, 0.95, 0.95),
    ],
)
def test_ppo_with_two_ranges(ratio, advantage, value, gradient):
    loss = LambdaGRPOLoss(clip_low=0.1, clip_high=0.28)
    assert token_loss(loss, ratio, advantage) == pytest.approx((value, gradient), rel=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (5.0, -2.0, 6.0, 0.0),  # bounded by 3 · 2
        (2.5, -2.0, 5.0, 5.0),
        (5.0, 2.0, -2.4, 0.0),  # the ordinary clip is nearer
        (0.5, -2.0, 1.6, 0.0),
    ],
)
def test_dual_clip(ratio, advantage, value, gradient):
    loss = LambdaGRPOLoss(dual_clip=3.0)
    assert token_loss(loss, ratio, advantage) == pytest.approx((value, gradient), rel=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(1.0, 2.0, 1.0), (1.5, 2.0, 1.28), (1.5, -2.0, 1.28), (0.1, 2.0, 0.1)],
)
def test_cispo_clips_the_weight_and_keeps_the_gradient(ratio, advantage, weight):
    # -w · a · log π with log π = -1
    loss = LambdaGRPOLoss(surrogate="cispo", clip_high=0.28)
    expected = pytest.approx((weight * advantage, -weight * advantage), rel=1e-12)
    assert token_loss(loss, ratio, advantage) == expected


def test_gspo_takes_the_ratio_of_the_whole_completion():
    # ln ρ = .3 and -.1 in the first row, mean .1; the padding of the second row is not counted.
    logprobs = torch.tensor([[-1.0, -2.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=logprobs.detach() - torch.tensor([[0.3, -0.1], [0.5, 9.0]]),
        ref_logprobs=None,
        advantages=torch.tensor([2.0, 1.0]),
        mask=torch.tensor([[True, True], [True, False]]),
        set_sizes=torch.ones(2, 2, dtype=torch.long),
        denominators=torch.tensor([2.0, 1.0]),
    )
    value = LambdaGRPOLoss(surrogate="gspo")(inputs).loss
    value.backward()
    first = math.exp(0.1)  # the second row, e^.5, is clipped at 1.2
    assert value.item() == pytest.approx(-2 * first - 1.2, rel=1e-6)
    # d(s · a)/d log π_t = s · a / len
    expected = torch.tensor([[-first, -first], [0, 0]], dtype=torch.float64)
    torch.testing.assert_close(logprobs.grad, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("surrogate", ["ppo", "cispo", "gspo"])
@pytest.mark.parametrize("clip", [0.0, 0.2])
@pytest.mark.parametrize("advantage", [1.5, -1.5])
def test_on_policy_all_surrogates_have_the_policy_gradient(surrogate, clip, advantage):
    loss = LambdaGRPOLoss(surrogate=surrogate, clip_low=clip)
    assert token_loss(loss, 1.0, advantage)[1] == pytest.approx(-advantage, rel=1e-12)
