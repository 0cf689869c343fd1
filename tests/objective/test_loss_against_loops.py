"""The loss against a reference of loops over groups, completions and tokens, case by case.

The reference shares nothing with the package: set sizes by comparing prefixes, denominators by
counting, clipping by asking on which side the ratio lies.
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_lightning.objective import LambdaGRPOLoss, LossInputs, row_denominators
from lgrpo_lightning.tree import ProcessTree

Group = list[list[int]]

AGGREGATIONS = ("group-token-mean", "token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
NORM_LENGTH = 7


def set_size(group: Group, i: int, t: int) -> int:
    return sum(other[: t + 1] == group[i][: t + 1] for other in group)


def denominator(groups: list[Group], b: int, i: int, aggregation: str) -> float:
    tokens = [sum(len(row) for row in group) for group in groups]
    completions = sum(len(group) for group in groups)
    return {
        "group-token-mean": tokens[b] * len(groups),
        "token-mean": sum(tokens),
        "seq-mean-token-mean": len(groups[b][i]) * completions,
        "seq-mean-token-sum-norm": NORM_LENGTH * completions,
    }[aggregation]


def upper(loss: LambdaGRPOLoss) -> float:
    return 1 + (loss.clip_low if loss.clip_high is None else loss.clip_high)


def clipped(ratio: torch.Tensor, advantage: float, loss: LambdaGRPOLoss) -> torch.Tensor:
    """The ratio in force: a constant where PPO takes the gradient away."""
    if advantage > 0 and ratio > upper(loss):
        return torch.full_like(ratio, upper(loss))
    if advantage < 0 and ratio < 1 - loss.clip_low:
        return torch.full_like(ratio, 1 - loss.clip_low)
    if advantage < 0 and loss.dual_clip is not None and ratio > loss.dual_clip:
        return torch.full_like(ratio, loss.dual_clip)
    return ratio


def kl(logprob: torch.Tensor, ref: torch.Tensor, estimator: str) -> torch.Tensor:
    r = ref.exp() / logprob.exp()
    if estimator == "k1":
        return -r.log()
    if estimator == "k2":
        return r.log() ** 2 / 2
    return r - r.log() - 1


def reference(
    groups: list[Group], inputs: LossInputs, loss: LambdaGRPOLoss, aggregation: str
) -> torch.Tensor:
    total = 0 * inputs.logprobs.sum()  # has a gradient even if every token is clipped
    row = 0
    for b, group in enumerate(groups):
        for i, tokens in enumerate(group):
            a = inputs.advantages[row].item()
            now, old = inputs.logprobs[row], inputs.old_logprobs[row]
            mean = sum(((now[t] - old[t]).detach() for t in range(len(tokens))), torch.zeros(()))
            for t in range(len(tokens)):
                if loss.surrogate == "gspo":
                    ratio = (mean / len(tokens)).exp() * now[t].exp() / now[t].exp().detach()
                else:
                    ratio = now[t].exp() / old[t].exp()
                if loss.surrogate == "cispo":
                    term = -min(ratio.item(), upper(loss)) * a * now[t]
                else:
                    term = -clipped(ratio, a, loss) * a
                if loss.kl_coef:
                    ref = inputs.ref_logprobs[row, t]
                    term = term + loss.kl_coef * kl(now[t], ref, loss.kl_estimator)
                if loss.process_set_scaling:
                    term = term / set_size(group, i, t)
                total = total + term / denominator(groups, b, i, aggregation)
            row += 1
    return total


@st.composite
def losses(draw: st.DrawFn) -> LambdaGRPOLoss:
    """Any valid combination of the arguments."""
    surrogate = draw(st.sampled_from(["ppo", "cispo", "gspo"]))
    return LambdaGRPOLoss(
        process_set_scaling=draw(st.booleans()),
        surrogate=surrogate,
        clip_low=draw(st.sampled_from([0.1, 0.2])),
        clip_high=draw(st.sampled_from([None, 0.28])),
        dual_clip=None if surrogate == "cispo" else draw(st.sampled_from([None, 1.5])),
        kl_coef=draw(st.sampled_from([0.0, 0.04, 1.0])),
        kl_estimator=draw(st.sampled_from(["k1", "k2", "k3"])),
    )


@st.composite
def groups_of_completions(draw: st.DrawFn) -> list[Group]:
    size = draw(st.integers(1, 4))
    completion = st.lists(st.integers(0, 1), max_size=4)
    group = st.lists(completion, min_size=size, max_size=size)
    return draw(st.lists(group, min_size=1, max_size=2))


def loss_inputs(groups: list[Group], aggregation: str, seed: int) -> LossInputs:
    """Random log-probs and advantages, off-policy far enough to be clipped on either side."""
    generator = torch.Generator().manual_seed(seed)
    length = max(len(row) for group in groups for row in group) + 1
    ids = torch.tensor([[row + [0] * (length - len(row)) for row in group] for group in groups])
    lengths = torch.tensor([[len(row) for row in group] for group in groups])
    mask = torch.arange(length) < lengths.unsqueeze(-1)
    tree = ProcessTree.from_completions(ids, mask)
    denominators = row_denominators(mask, aggregation, norm_length=NORM_LENGTH)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    rows = lengths.numel()
    logprobs = -noise(rows, length).abs()
    return LossInputs(
        logprobs=logprobs.requires_grad_(),
        old_logprobs=logprobs.detach() + 0.3 * noise(rows, length),
        ref_logprobs=logprobs.detach() + 0.3 * noise(rows, length),
        advantages=noise(rows),
        mask=mask.flatten(0, 1),
        set_sizes=tree.set_sizes.flatten(0, 1),
        denominators=denominators.flatten(),
    )


@settings(max_examples=250)
@given(groups_of_completions(), losses(), st.sampled_from(AGGREGATIONS), st.integers(0, 2**31))
def test_value_and_gradient_equal_the_reference(groups, loss, aggregation, seed):
    inputs = loss_inputs(groups, aggregation, seed)
    value = loss(inputs).loss
    expected = reference(groups, inputs, loss, aggregation)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(value, inputs.logprobs)
    (expected_gradient,) = torch.autograd.grad(expected, inputs.logprobs)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)
