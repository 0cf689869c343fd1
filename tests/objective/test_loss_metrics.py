"""The metrics of the loss, counted by hand."""

import dataclasses
import math

import pytest
import torch

from lgrpo_lightning.objective import LambdaGRPOLoss, LossInputs


def three_tokens(ratios: list[float], advantage: float) -> LossInputs:
    logprobs = torch.tensor([ratios], dtype=torch.float64).log()
    return LossInputs(
        logprobs=logprobs,
        old_logprobs=torch.zeros_like(logprobs),
        ref_logprobs=torch.zeros_like(logprobs),
        advantages=torch.tensor([advantage]),
        mask=torch.ones_like(logprobs, dtype=torch.bool),
        set_sizes=torch.tensor([[4] * (len(ratios) - 1) + [1]]),
        denominators=torch.tensor([3.0]),
    )


@pytest.mark.parametrize(
    ("options", "advantage", "low", "high"),
    [
        ({}, 1.0, 0, 2),
        ({}, -1.0, 1, 0),
        ({"clip_high": 1.0}, 1.0, 0, 1),
        ({"dual_clip": 2.5}, -1.0, 1, 1),
        ({"surrogate": "cispo"}, 1.0, 0, 2),
        ({"surrogate": "cispo"}, -1.0, 0, 2),
        ({"surrogate": "gspo"}, 1.0, 0, 3),  # the geometric mean of the ratios is 1.31
    ],
)
def test_clipped_tokens_are_counted(options, advantage, low, high):
    metrics = LambdaGRPOLoss(**options)(three_tokens([0.5, 1.5, 3.0], advantage)).metrics
    assert (metrics["clipped_low"], metrics["clipped_high"]) == (low, high)


def test_metrics_are_sums_over_tokens():
    metrics = LambdaGRPOLoss(kl_coef=0.1)(three_tokens([0.5, 1.5, 3.0], 1.0)).metrics
    assert metrics["tokens"] == 3
    assert metrics["ratio"].item() == pytest.approx(5.0)
    assert metrics["weight"].item() == pytest.approx(0.25 + 0.25 + 1)
    k3 = sum(1 / ratio + math.log(ratio) - 1 for ratio in (0.5, 1.5, 3.0))
    assert metrics["kl"].item() == pytest.approx(k3)
    assert not any(metric.requires_grad for metric in metrics.values())


@pytest.mark.parametrize("surrogate", ["ppo", "cispo", "gspo"])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratios", [[0.2, 0.5, 1.5], [0.5, 2.0, 3.0]])
def test_more_padding_changes_nothing(surrogate, advantage, ratios):
    loss = LambdaGRPOLoss(
        surrogate=surrogate, kl_coef=0.1, dual_clip=None if surrogate == "cispo" else 1.25
    )
    short = three_tokens(ratios, advantage)
    tokens = ("logprobs", "old_logprobs", "ref_logprobs", "mask", "set_sizes")
    padded = {name: torch.nn.functional.pad(getattr(short, name), (0, 2)) for name in tokens}
    expected, actual = loss(short), loss(dataclasses.replace(short, **padded))
    assert torch.equal(actual.loss, expected.loss)
    assert actual.metrics == expected.metrics
