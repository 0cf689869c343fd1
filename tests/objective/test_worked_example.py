"""The worked example of docs/method.md: every number of its tables, computed anew."""

import re
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from lgrpo_lightning.objective import (
    LambdaGRPOLoss,
    LossInputs,
    group_advantages,
    row_denominators,
)
from lgrpo_lightning.tree import ProcessTree

PAGE = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
HALF_A_DIGIT = 5.1e-5  # the page has four decimals


def table(first_column: str) -> list[list[str]]:
    """The cells of the one table whose header begins with this."""
    (body,) = re.findall(rf"^\| {first_column} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    lines = body.replace("−", "-").replace(r"\|", "¦").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


COMPLETIONS = table("completion")
STEP_ROWS = table("step")
QUANTITIES = table("quantity")
NAMES = [row[0] for row in COMPLETIONS]
TOKENS = [row[1].split() for row in COMPLETIONS]
LENGTH = max(map(len, TOKENS))


def tokens_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    vocabulary = sorted({token for tokens in TOKENS for token in tokens})
    ids = torch.zeros(1, len(TOKENS), LENGTH, dtype=torch.long)
    mask = torch.zeros(1, len(TOKENS), LENGTH, dtype=torch.bool)
    for i, tokens in enumerate(TOKENS):
        ids[0, i, : len(tokens)] = torch.tensor([vocabulary.index(token) for token in tokens])
        mask[0, i, : len(tokens)] = True
    return ids, mask


IDS, MASK = tokens_and_mask()
TREE = ProcessTree.from_completions(IDS, MASK)
REWARDS = torch.tensor([[float(row[2]) for row in COMPLETIONS]], dtype=torch.float64)
ADVANTAGES = group_advantages(REWARDS)


class Step(NamedTuple):
    tokens: str
    members: str  # the process set
    completion: int
    start: int  # its first token in that completion
    level: int  # steps before it


def steps_of_the_tree() -> list[Step]:
    """Depth first, each one once."""
    steps: dict[tuple[str, str], Step] = {}
    for i in TREE.order[0].tolist():
        sets = [
            " ".join(name for j, name in enumerate(NAMES) if TREE.overlaps[0, i, j] > t)
            for t in range(len(TOKENS[i]))
        ]
        start = 0
        for level, (members, run) in enumerate(groupby(sets)):
            end = start + len(list(run))
            step = Step(" ".join(TOKENS[i][start:end]), members, i, start, level)
            steps.setdefault(step[:2], step)
            start = end
    return list(steps.values())


STEPS = steps_of_the_tree()


def test_the_example_has_six_short_completions():
    assert " ".join(NAMES) == "y1 y2 y3 y4 y5 y6"
    assert LENGTH == 4


def test_completions():
    for i, (_, tokens, _, advantage, weights, depth, proportion) in enumerate(COMPLETIONS):
        assert ADVANTAGES[0, i].item() == pytest.approx(float(advantage), abs=HALF_A_DIGIT)
        expected = [float(Fraction(weight)) for weight in weights.split()]
        assert len(expected) == len(tokens.split())
        assert TREE.weights(torch.float64)[0, i, : len(expected)].tolist() == expected
        assert TREE.path_depth[0, i] == int(depth)
        measured = TREE.intermediate_proportion[0, i].item()
        assert measured == pytest.approx(float(proportion), abs=HALF_A_DIGIT)


def test_process_steps():
    rewards, advantages = TREE.step_means(REWARDS), TREE.step_means(ADVANTAGES)
    assert [[step.tokens, step.members] for step in STEPS] == [row[:2] for row in STEP_ROWS]
    for step, row in zip(STEPS, STEP_ROWS, strict=True):
        node = 0, step.completion, step.start
        size = TREE.set_sizes[node].item()
        reward, advantage = rewards[node].item(), advantages[node].item()
        assert [float(cell) for cell in row[2:]] == pytest.approx(
            [size, reward, advantage, size * advantage, advantage], abs=HALF_A_DIGIT
        )


def test_drawing():
    branches = re.findall(r"^([│ ]*[├└]─ )((?:\S )*\S) +(y.*)$", PAGE, re.MULTILINE)
    drawn = [(tokens, members, len(indent) // 3 - 1) for indent, tokens, members in branches]
    assert drawn == [(step.tokens, step.members, step.level) for step in STEPS]


def inputs_on_policy() -> LossInputs:
    logprobs = -torch.ones(MASK[0].shape, dtype=torch.float64)
    return LossInputs(
        logprobs=logprobs.requires_grad_(),
        old_logprobs=logprobs.detach(),
        ref_logprobs=None,
        advantages=ADVANTAGES[0],
        mask=MASK[0],
        set_sizes=TREE.set_sizes[0],
        denominators=row_denominators(MASK, "group-token-mean")[0],
    )


def test_quantities():
    tokens, nodes, grpo, scaled = (float(value) for _, value in QUANTITIES)
    assert tokens == MASK.sum()
    assert nodes == TREE.num_nodes[0]
    assert nodes == pytest.approx(TREE.weights().sum().item())
    for scaling, expected in ((False, grpo), (True, scaled)):
        loss = LambdaGRPOLoss(process_set_scaling=scaling)(inputs_on_policy()).loss
        assert loss.item() == pytest.approx(expected, abs=HALF_A_DIGIT)


@pytest.mark.parametrize(("scaling", "column"), [(False, 5), (True, 6)])
def test_what_each_token_is_pushed_by(scaling, column):
    """Minus N times the gradient, summed over the members of the set."""
    inputs = inputs_on_policy()
    LambdaGRPOLoss(process_set_scaling=scaling)(inputs).loss.backward()
    pushes = -MASK.sum() * inputs.logprobs.grad
    for step, row in zip(STEPS, STEP_ROWS, strict=True):
        rows = [NAMES.index(name) for name in step.members.split()]
        for t in range(step.start, step.start + len(step.tokens.split())):
            total = pushes[rows, t].sum().item()
            assert total == pytest.approx(float(row[column]), abs=HALF_A_DIGIT)
