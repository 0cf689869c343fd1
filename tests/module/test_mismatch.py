"""A sampler whose log-probs are not the policy's: measured, and corrected for when asked to."""

import pytest
import torch

from lgrpo_lightning.rollout.mismatch import importance_weights, mismatch
from tests.module.fixed import FixedRollouts, FixedSampler
from tests.module.runs import Recorder, make_data, make_module, make_trainer

OLD = torch.tensor([[-1.0, -2.0, -9.0]])
SAMPLER = torch.tensor([[-2.0, -1.5, 4.0]])
MASK = torch.tensor([[True, True, False]])
CAP = 1.3
SAID = -2.5  # by the sampler of every token; the policy says -3 on average


@pytest.fixture(autouse=True)
def sampler(monkeypatch):
    monkeypatch.setattr(FixedSampler, "logprob", SAID)


def test_weights_and_figures_by_hand():
    weights = importance_weights(OLD, SAMPLER, MASK, 2.0)
    torch.testing.assert_close(weights, torch.tensor([[2.0, 0.6065307, 1.0]]))
    figures = mismatch(OLD, SAMPLER, MASK, 2.0)
    # e - 1 - 1 and exp(-0.5) + 0.5 - 1
    expected = {"sampler_gap": 1.5, "sampler_kl": 0.7182818 + 0.1065307, "importance_capped": 1}
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(expected)
    assert mismatch(OLD, SAMPLER, MASK, None).keys() == {"sampler_gap", "sampler_kl"}


def first_step(folder, cap, iterations):
    """The first optimizer step on completions of the fixed sampler."""
    recorder = Recorder()
    trainer = make_trainer(folder, callbacks=[recorder], max_steps=1)
    module = make_module(
        kind=FixedRollouts, importance_cap=cap, num_iterations=iterations, group_size=4
    )
    trainer.fit(module, datamodule=make_data())
    return recorder, trainer.logged_metrics


@pytest.mark.parametrize("iterations", [1, 2], ids=["on-policy", "with old log-probs"])
def test_the_loss_is_weighted_by_the_capped_ratio_of_policy_and_sampler(tmp_path, iterations):
    recorder, logged = first_step(tmp_path, CAP, iterations)
    (output,), (rollout,) = recorder.outputs, recorder.rollouts
    mask, old = output["mask"], output["old_logprobs"]
    gap = (old - SAID) * mask
    weights = gap.exp().clamp(max=CAP)
    assert (weights == CAP).any()
    assert (weights < CAP).any()
    ratio = (output["logprobs"] - old).exp()
    tokens = -weights * ratio * output["advantages"].unsqueeze(1) / output["set_sizes"].clamp(min=1)
    rows = rollout.micro_batches[0]
    expected = ((tokens * mask).sum(1) / rollout.denominators.flatten()[rows]).sum()
    assert output["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    capped = (gap.exp() > CAP).sum() / mask.sum()
    assert logged["train/importance_capped"] == pytest.approx(capped.item())
    assert logged["train/sampler_gap"] == pytest.approx((gap.abs().sum() / mask.sum()).item())


def test_without_a_cap_the_mismatch_is_only_measured(tmp_path):
    plain, logged = first_step(tmp_path, None, 1)
    weighted, _ = first_step(tmp_path, 1e9, 1)
    assert "train/importance_capped" not in logged
    assert logged["train/sampler_kl"] > 0.01
    assert not torch.allclose(plain.gradients[0], weighted.gradients[0])
    assert torch.equal(plain.outputs[0]["logprobs"], weighted.outputs[0]["logprobs"])
