"""Ratios: exactly 1 on-policy, against the true old policy afterwards."""

import pytest
import torch

from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import LoRASettings, row_logprobs
from tests.module.runs import Recorder, make_data, make_module, make_trainer, reward

FAST = {
    "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "rewards": [reward("row_number")],
}


def fit(folder, module, accumulate=1, **options):
    recorder = Recorder()
    trainer = make_trainer(
        folder, callbacks=[recorder], accumulate_grad_batches=accumulate, **options
    )
    trainer.fit(module, datamodule=make_data())
    return trainer, recorder


def ratios(recorder):
    return [(o["logprobs"] - o["old_logprobs"]).exp()[o["mask"]] for o in recorder.outputs]


def test_one_step_per_rollout_has_ratio_one_exactly(tmp_path):
    _, recorder = fit(tmp_path, make_module(micro_batch_size=1, **FAST), 4, max_steps=3)
    assert all(rollout.old_logprobs is None for rollout in recorder.rollouts)
    assert all((ratio == 1).all() for ratio in ratios(recorder))


@pytest.mark.parametrize(
    ("size", "accumulate", "iterations"), [(2, 1, 1), (1, 2, 1), (None, 1, 2), (2, 2, 2)]
)
def test_later_steps_are_measured_against_the_policy_that_sampled(
    tmp_path, size, accumulate, iterations
):
    module = make_module(micro_batch_size=size, num_iterations=iterations, **FAST)
    steps = 4 * iterations // (size or 4)
    _, recorder = fit(tmp_path, module, accumulate, max_steps=2 * steps // accumulate)
    per_step = ratios(recorder)
    moved = []
    for start in range(0, len(per_step), steps):
        first = per_step[start : start + accumulate]
        assert all(torch.allclose(r, torch.ones_like(r), atol=1e-5) for r in first)
        moved += [(r - 1).abs().max() for r in per_step[start + accumulate : start + steps]]
    assert max(moved) > 1e-3


def test_old_logprobs_are_those_before_the_first_update(tmp_path):
    module = make_module(micro_batch_size=1, num_iterations=2, **FAST)
    _, recorder = fit(tmp_path, module, max_steps=8)
    old = recorder.rollouts[0].old_logprobs
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(recorder.before[name])
        expected = row_logprobs(
            module.policy,
            recorder.rollouts[0].prompt_ids,
            recorder.rollouts[0].prompt_mask,
            recorder.rollouts[0].completion_ids.flatten(0, 1),
            recorder.rollouts[0].completion_mask.flatten(0, 1),
            torch.tensor([0, 0, 1, 1]),
            module.sampling.temperature,
            "padded",
        )
    torch.testing.assert_close(old.flatten(0, 1), expected, rtol=0, atol=1e-5)
    for step, output in enumerate(recorder.outputs):
        row = recorder.rollouts[0].micro_batches[step % 4]
        expected = old.flatten(0, 1)[row, : output["mask"].shape[1]]
        assert torch.equal(output["old_logprobs"], expected)


@pytest.mark.parametrize("engine", ["tree", "padded"])
@pytest.mark.parametrize("iterations", [1, 2])
def test_the_sampler_saw_the_distribution_that_is_updated(tmp_path, engine, iterations):
    module = make_module(num_iterations=iterations, engine=engine, **FAST)
    trainer, recorder = fit(tmp_path, module, max_steps=2 * iterations)
    for output, rollout in zip(recorder.outputs[::iterations], recorder.rollouts, strict=True):
        sampled = rollout.sampler_logprobs.flatten(0, 1)[rollout.micro_batches[0]]
        gap = sampled - output["old_logprobs"]
        assert gap[output["mask"]].abs().max() < 1e-5
    assert trainer.logged_metrics["train/sampler_gap"] < 1e-5


def test_dropout_of_the_adapter_reaches_neither_sampling_nor_old_nor_reference(tmp_path):
    module = make_module(
        policy={"lora": LoRASettings(r=2, dropout=0.5)},
        num_iterations=2,
        loss=LambdaGRPOLoss(kl_coef=0.1),
        **FAST,
    )
    trainer, recorder = fit(tmp_path, module, max_steps=4)
    assert trainer.logged_metrics["train/sampler_gap"] < 1e-5
    later = recorder.rollouts[1]  # when the adapter is not zero any more
    assert (later.ref_logprobs - later.old_logprobs).abs().max() > 1e-4
    # The update itself is seen through dropout.
    assert (recorder.outputs[2]["logprobs"] - recorder.outputs[2]["old_logprobs"]).abs().max() > 0
