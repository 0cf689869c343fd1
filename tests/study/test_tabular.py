import pytest
import torch

from lgrpo_lightning.objective import group_advantages
from lgrpo_lightning.study.landscape import Trap
from lgrpo_lightning.study.tabular import TabularRun, weighted_loss


def tabular_run(**changes):
    settings = {
        "trap": Trap(2),
        "weighting": "λ-GRPO",
        "optimizer": "SGD",
        "group_size": 4,
        "temperature": 1.0,
        "steps": 20,
    }
    return TabularRun(**settings | changes)


@pytest.mark.parametrize(
    ("weighting", "factors"),
    [
        ("GRPO", [[1, 1], [1, 1], [1, 1]]),
        ("λ-GRPO", [[1 / 2, 1], [1 / 2, 1], [1, 1]]),
        ("times |λ|", [[2, 1], [2, 1], [1, 1]]),
    ],
)
def test_gradient_of_each_token_has_its_weight(weighting, factors):
    # Completions 00, 01 and 10, of which the first two share their first token.
    set_sizes = torch.tensor([[[2, 1], [2, 1], [1, 1]]])
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.5]]))
    logprobs = torch.full((1, 3, 2), -0.7, requires_grad=True)
    denominators = torch.full((1, 3), 6.0)
    loss = weighted_loss(weighting, logprobs, advantages, set_sizes, denominators)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    expected = -torch.tensor([factors]) * advantages.unsqueeze(-1) / 6
    assert torch.allclose(gradient, expected)


def test_learning_rates_are_trained_apart_and_with_the_same_random_numbers():
    run = tabular_run()
    together = run.train([2.0, 8.0], runs=3, seed=5)
    alone = torch.cat([run.train([2.0], runs=3, seed=5), run.train([8.0], runs=3, seed=5)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_runs_do_not_depend_on_how_many_there_are():
    # Gradients are of each policy's own loss; a mean over policies would shrink them.
    run = tabular_run(trap=Trap(1, easy=0.0), group_size=32)
    few, many = (run.train([8.0], runs, seed=3)[0, :, -1].mean() for runs in (20, 200))
    assert few > 0.7
    assert many > 0.7


def test_sgd_does_not_see_how_logits_are_made_of_weights(monkeypatch):
    mixed = tabular_run().train([4.0], runs=4, seed=1)
    size = Trap(2).num_nodes
    monkeypatch.setattr(TabularRun, "_mix", lambda _: torch.eye(size))
    assert torch.allclose(mixed, tabular_run().train([4.0], runs=4, seed=1), atol=1e-4)


def test_trap_is_solved_by_lambda_and_not_by_its_opposite():
    solved = {
        weighting: (tabular_run(weighting=weighting, group_size=16, steps=150).train([16.0], 40, 0))
        for weighting in ("λ-GRPO", "times |λ|")
    }
    shares = {name: (history[0, :, -1] > 0.9).float().mean() for name, history in solved.items()}
    assert shares["λ-GRPO"] > 0.7
    assert shares["times |λ|"] < 0.3


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"weighting": "lambda"}, "weighting"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"group_size": 1}, "group_size"),
        ({"temperature": 0.0}, "temperature"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_arguments_are_refused(change, name):
    with pytest.raises(ValueError, match=name):
        tabular_run(**change)
