"""Theorem 1 and what follows from it, on prefix trees of a policy with real probabilities.

A policy gives equal probabilities to equal prefixes; the theorem rests on that, so the log-probs
here come from a small causal model and not from a random number generator.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lgrpo_lightning.objective import (
    LambdaGRPOLoss,
    LossInputs,
    group_advantages,
    kl_estimate,
    row_denominators,
)
from lgrpo_lightning.tree import ProcessTree

VOCABULARY = 2
B, G, T = 3, 8, 6


class CausalModel(nn.Module):
    """Next-token probabilities that depend on the whole prefix and on nothing else."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY + 1, 8)
        self.recurrence = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, VOCABULARY)
        self.double()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Log-probs of the tokens, [M, T]."""
        start = ids.new_full((len(ids), 1), VOCABULARY)
        hidden, _ = self.recurrence(self.embedding(torch.cat([start, ids[:, :-1]], dim=1)))
        logits = 3 * self.head(hidden)
        return logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


class Setting:
    """A rollout of a policy: completions, tree, advantages and everything the loss takes."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.policy, self.older, self.reference = CausalModel(1), CausalModel(2), CausalModel(3)
        self.ids = torch.randint(0, VOCABULARY, (B, G, T), generator=generator)
        self.ids[0, 1] = self.ids[0, 0]  # a duplicate
        lengths = torch.randint(1, T + 1, (B, G), generator=generator)
        lengths[0, :2] = T
        self.mask = torch.arange(T) < lengths.unsqueeze(-1)
        self.tree = ProcessTree.from_completions(self.ids, self.mask)
        rewards = torch.rand(B, G, generator=generator, dtype=torch.float64)
        self.advantages = group_advantages(rewards)
        self.denominators = row_denominators(self.mask, "group-token-mean")

    def inputs(self, old: CausalModel) -> LossInputs:
        ids = self.ids.flatten(0, 1)
        return LossInputs(
            logprobs=self.policy(ids),
            old_logprobs=old(ids).detach(),
            ref_logprobs=self.reference(ids).detach(),
            advantages=self.advantages.flatten(),
            mask=self.mask.flatten(0, 1),
            set_sizes=self.tree.set_sizes.flatten(0, 1),
            denominators=self.denominators.flatten(),
        )

    def gradients(self, loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(loss, list(self.policy.parameters()), retain_graph=True)


@pytest.fixture
def setting() -> Setting:
    return Setting()


def token_terms(setting: Setting, inputs: LossInputs, beta: float) -> torch.Tensor:
    """P · Â(λ) - D of every token, [B, G, T]; 0 at padding."""
    ratio = (inputs.logprobs - inputs.old_logprobs).exp()
    kl = beta * kl_estimate(inputs.logprobs, inputs.ref_logprobs)
    step_advantages = setting.tree.step_means(setting.advantages).flatten(0, 1)
    return ((ratio * step_advantages - kl) * inputs.mask).view(B, G, T)


def assert_same_loss(setting: Setting, actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
    pairs = zip(setting.gradients(actual), setting.gradients(expected), strict=True)
    for gradient, expected_gradient in pairs:
        assert gradient.any()
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_the_setting_is_a_real_tree(setting):
    sizes = setting.tree.set_sizes
    assert sizes.unique().numel() > 4
    assert setting.tree.path_depth.max() > 3
    logprobs = setting.policy(setting.ids.flatten(0, 1)).view(B, G, T)
    first = logprobs.gather(1, setting.tree.representatives)
    torch.testing.assert_close(logprobs[setting.mask], first[setting.mask])


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_theorem_1_grpo_equals_the_process_reward_loss(setting, beta):
    """One update per rollout: a_i may be replaced by the step advantage Â(λ(i,t))."""
    inputs = setting.inputs(old=setting.policy)
    grpo = LambdaGRPOLoss(process_set_scaling=False, kl_coef=beta)(inputs).loss
    tokens = setting.mask.sum((1, 2))
    prm = -(token_terms(setting, inputs, beta).sum((1, 2)) / tokens).mean()
    assert_same_loss(setting, grpo, prm)


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_lambda_grpo_counts_every_node_once(setting, beta):
    """Eq. 9 is the process reward loss summed over the nodes of the tree, not over the tokens."""
    inputs = setting.inputs(old=setting.policy)
    scaled = LambdaGRPOLoss(kl_coef=beta)(inputs).loss
    is_first = setting.tree.representatives == torch.arange(G).view(1, -1, 1)
    nodes = setting.mask & is_first
    assert torch.equal(nodes.sum((1, 2)), setting.tree.num_nodes)
    terms = token_terms(setting, inputs, beta).where(nodes, 0)
    per_node = -(terms.sum((1, 2)) / setting.mask.sum((1, 2))).mean()
    assert_same_loss(setting, scaled, per_node)


def test_off_policy_the_theorem_holds_until_something_is_clipped(setting):
    inputs = setting.inputs(old=setting.older)
    tokens = setting.mask.sum((1, 2))
    prm = -(token_terms(setting, inputs, 0.0).sum((1, 2)) / tokens).mean()
    unclipped = LambdaGRPOLoss(process_set_scaling=False, clip_low=1.0, clip_high=1e9)
    assert_same_loss(setting, unclipped(inputs).loss, prm)
    clipped = LambdaGRPOLoss(process_set_scaling=False)(inputs)
    assert clipped.metrics["clipped_low"] + clipped.metrics["clipped_high"] > 0
    assert not torch.isclose(clipped.loss, prm, rtol=1e-3)


def test_duplicates_weigh_as_much_as_one(setting):
    """m identical completions share their leaf and weigh 1/m each."""
    weights = setting.tree.weights(torch.float64)
    assert setting.tree.overlaps[0, 0, 1] == T
    members = setting.tree.set_sizes[0, 0, -1].item()
    assert weights[0, 0, -1] == weights[0, 1, -1] == 1 / members == 0.5


def test_a_group_of_equal_rewards_moves_nothing(setting):
    setting.advantages = group_advantages(torch.full((B, G), 0.1))
    loss = LambdaGRPOLoss()(setting.inputs(old=setting.policy)).loss
    assert loss == 0
    assert not any(gradient.any() for gradient in setting.gradients(loss))


completions = st.lists(st.integers(0, 1), min_size=1, max_size=5)
groups = st.lists(completions, min_size=2, max_size=8)


def one_tree(group: list[list[int]]) -> ProcessTree:
    length = max(map(len, group))
    ids = torch.tensor([[row + [0] * (length - len(row)) for row in group]])
    mask = torch.tensor([[[t < len(row) for t in range(length)] for row in group]])
    return ProcessTree.from_completions(ids, mask)


@given(groups, st.data())
def test_a_lone_success_has_no_step_with_negative_advantage(group, data):
    winner = data.draw(st.integers(0, len(group) - 1))
    rewards = torch.zeros(1, len(group), dtype=torch.float64)
    rewards[0, winner] = 1
    steps = one_tree(group).step_means(group_advantages(rewards))
    assert steps[0, winner].min() >= -1e-12


@given(groups, st.data())
def test_step_advantages_are_those_of_the_step_rewards_and_zero_for_the_whole_group(group, data):
    values = st.lists(st.integers(-3, 3), min_size=len(group), max_size=len(group))
    rewards = torch.tensor([data.draw(values)], dtype=torch.float64)
    tree = one_tree(group)
    steps = tree.step_means(group_advantages(rewards))
    expected = (tree.step_means(rewards) - rewards.mean()) / (rewards.std() + 1e-4)
    torch.testing.assert_close(steps, expected.where(tree.mask, 0))
    everyone = tree.set_sizes == len(group)
    torch.testing.assert_close(steps[everyone], torch.zeros_like(steps[everyone]))
