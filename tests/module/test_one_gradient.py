"""One gradient: for one rollout it does not depend on how the rollout is cut."""

import pytest
import torch

from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.objective.denominators import Aggregation
from tests.module.fixed import FixedRollouts
from tests.module.runs import ADDITION, Recorder, make_data, make_module, make_trainer

AGGREGATIONS = Aggregation.__args__
ROLLOUT = 8  # completions: 2 prompts of 4


def gradients(folder, path, size=None, loss=None, precision="64-true", iterations=2, **options):
    """The gradient of each iteration over one rollout, accumulated over its micro-batches."""
    recorder = Recorder()
    trainer = make_trainer(
        folder,
        callbacks=[recorder],
        precision=precision,
        max_steps=iterations,
        accumulate_grad_batches=1 if size is None else ROLLOUT // size,
    )
    module = make_module(
        path,
        kind=FixedRollouts,
        group_size=ROLLOUT // 2,
        micro_batch_size=size,
        num_iterations=iterations,
        loss=loss or LambdaGRPOLoss(kl_coef=0.3),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.3),
        **options,
    )
    trainer.fit(module, datamodule=make_data())
    assert len(recorder.gradients) == iterations
    assert recorder.gradients[0].norm() > 1e-3
    return torch.stack(recorder.gradients), module, recorder


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("scaling", [True, False], ids=["lambda", "plain"])
def test_the_gradient_does_not_depend_on_the_micro_batches(tmp_path, gpt2, scaling, aggregation):
    options = {
        "loss": LambdaGRPOLoss(process_set_scaling=scaling, kl_coef=0.3),
        "aggregation": aggregation,
    }
    whole, *_ = gradients(tmp_path, gpt2, engine="padded", **options)
    for size, engine in [(4, "padded"), (2, "tree"), (1, "padded"), (None, "tree")]:
        found, *_ = gradients(tmp_path, gpt2, size, engine=engine, **options)
        assert relative(found, whole) < 1e-10, (size, engine)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": LambdaGRPOLoss(surrogate="gspo", kl_coef=0.3)},
        {"loss": LambdaGRPOLoss(surrogate="cispo", kl_coef=0.3, kl_estimator="k2")},
        {"mask_truncated": True},
        {"advantage_scale": "batch"},
        {"advantage_scale": "none"},
    ],
    ids=["gspo", "cispo", "mask_truncated", "batch", "none"],
)
def test_nor_does_it_with_other_settings(tmp_path, gpt2, options):
    whole, *_ = gradients(tmp_path, gpt2, **options)
    found, *_ = gradients(tmp_path, gpt2, 2, **options)
    assert relative(found, whole) < 1e-10


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("scaling", [True, False], ids=["lambda", "plain"])
def test_single_precision_agrees_to_its_rounding(tmp_path, scaling, aggregation):
    options = {
        "precision": "32-true",
        "iterations": 1,
        "loss": LambdaGRPOLoss(process_set_scaling=scaling, kl_coef=0.3),
        "aggregation": aggregation,
    }
    whole, *_ = gradients(tmp_path, ADDITION, engine="padded", **options)
    for size, engine in [(2, "padded"), (1, "tree")]:
        found, *_ = gradients(tmp_path, ADDITION, size, engine=engine, **options)
        assert relative(found, whole) < 1e-5


def test_the_gradient_is_that_of_equation_9(tmp_path, gpt2):
    found, module, recorder = gradients(tmp_path, gpt2, 2, iterations=1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(recorder.before[name])
    module.zero_grad()
    equation_9(module, recorder.rollouts[0], beta=0.3).backward()
    expected = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    assert relative(found[0], expected) < 1e-6  # rewards and advantages are held in float32


def equation_9(module, rollout, beta):
    """Minus Eq. 9, group by group and token by token, averaged over the groups."""
    total = 0.0
    for prompt, real, group, masks, rewards in zip(
        rollout.prompt_ids,
        rollout.prompt_mask,
        rollout.completion_ids,
        rollout.completion_mask,
        rollout.rewards.double(),
        strict=True,
    ):
        words = [ids[mask].tolist() for ids, mask in zip(group, masks, strict=True)]
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        terms = []
        for word, advantage in zip(words, advantages, strict=True):
            policy = token_logprobs(module.policy, prompt[real], word, module.sampling.temperature)
            with torch.no_grad():
                reference = token_logprobs(
                    module.reference.frozen, prompt[real], word, module.sampling.temperature
                )
            for t in range(len(word)):
                size = sum(other[: t + 1] == word[: t + 1] for other in words)
                ratio = (policy[t] - policy[t].detach()).exp()
                gap = reference[t] - policy[t]
                terms.append((beta * (gap.exp() - gap - 1) - ratio * advantage) / size)
        total = total + sum(terms) / sum(map(len, words))
    return total / len(rollout.rewards)


def token_logprobs(model, prompt, word, temperature):
    tokens = torch.cat([prompt, torch.tensor(word)])
    logits = model(tokens.unsqueeze(0), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, tokens[len(prompt) :, None])[:, 0]
