"""What rewards, and their absence, do in a run."""

import math

import pytest
import torch

from lgrpo_lightning.rewards import RewardSpec
from lgrpo_lightning.rewards.runner.errors import RewardError
from lgrpo_lightning.rollout import SamplingSettings
from tests.module.runs import Recorder, make_data, make_module, make_trainer, reward


def fit(folder, *names, **options):
    recorder = Recorder()
    options = {"group_size": 4, "rewards": [reward(name) for name in names], **options}
    trainer = make_trainer(folder, callbacks=[recorder], max_steps=2)
    trainer.fit(make_module(**options), datamodule=make_data())
    return trainer.logged_metrics, recorder


def test_equal_rewards_teach_nothing_and_are_counted(tmp_path):
    logged, recorder = fit(tmp_path, "always_one")
    assert logged["train/zero_variance_groups"] == 1
    assert logged["train/reward"] == 1
    assert logged["train/reward_std"] == 0
    assert all((gradient == 0).all() for gradient in recorder.gradients)
    assert all((output["advantages"] == 0).all() for output in recorder.outputs)


def test_completions_without_any_reward_are_left_out(tmp_path):
    logged, recorder = fit(tmp_path, "applies_to_every_other")
    for rollout, output in zip(recorder.rollouts, recorder.outputs, strict=True):
        assert rollout.rewards.isnan().tolist() == [[False, True] * 2] * 2
        assert (rollout.advantages[:, 1::2] == 0).all()
        assert torch.isfinite(output["loss"])
    assert math.isfinite(logged["train/reward"])
    assert all(gradient.isfinite().all() for gradient in recorder.gradients)


def test_a_run_without_any_reward_goes_on(tmp_path):
    logged, recorder = fit(tmp_path, "never_applies")
    assert math.isnan(logged["train/reward"])
    assert logged["train/zero_variance_groups"] == 1
    assert all((gradient == 0).all() for gradient in recorder.gradients)


def test_several_rewards_are_weighted_and_kept_apart(tmp_path):
    spec = RewardSpec(reward("starts_with_digit"), weight=0.5)
    rewards = [reward("token_sum"), spec, reward("never_applies")]
    logged, recorder = fit(tmp_path, rewards=rewards)
    for output in recorder.outputs:
        parts = output["reward_breakdown"]
        assert parts.keys() == {"token_sum", "starts_with_digit", "never_applies"}
        expected = parts["token_sum"] + 0.5 * parts["starts_with_digit"]
        torch.testing.assert_close(output["rewards"], expected)
        assert parts["never_applies"].isnan().all()
        digits = [text[:1].isdigit() for text in output["completions"]]
        assert parts["starts_with_digit"].tolist() == digits
    last = recorder.outputs[-1]
    assert logged["train/rewards/token_sum"] == pytest.approx(
        float(last["reward_breakdown"]["token_sum"].mean())
    )
    assert math.isnan(logged["train/rewards/never_applies"])


def test_a_failing_reward_ends_the_run_by_default(tmp_path):
    with pytest.raises(RewardError, match="the judge is out"):
        fit(tmp_path, "token_sum", "fails")


def test_a_failing_reward_is_skipped_and_counted_on_request(tmp_path):
    logged, recorder = fit(tmp_path, "token_sum", "fails", on_reward_error="skip")
    assert logged["train/reward_errors/fails"] == 1
    assert logged["train/reward_errors/token_sum"] == 0
    for output in recorder.outputs:
        assert output["reward_breakdown"]["fails"].isnan().all()
        assert torch.equal(output["rewards"], output["reward_breakdown"]["token_sum"])
    assert all(gradient.norm() > 0 for gradient in recorder.gradients)


def test_truncated_completions_are_marked(tmp_path):
    logged, recorder = fit(tmp_path, "token_sum")
    for output in recorder.outputs:
        rows = zip(output["truncated"], output["lengths"], output["mask"], strict=True)
        for truncated, length, mask in rows:
            assert int(length) == int(mask.sum())  # they carry loss unless masked
            assert not truncated or length == 5
    shares = [output["truncated"].float().mean() for output in recorder.outputs]
    assert 0 < sum(shares) < 2  # the sample has both kinds
    assert logged["train/truncated"] == pytest.approx(float(shares[-1]))


def test_masked_ones_are_left_out_of_the_loss_and_of_the_tree(tmp_path):
    _, recorder = fit(tmp_path, "token_sum", mask_truncated=True)
    seen = set()
    for rollout in recorder.rollouts:
        cut = ~rollout.finished
        seen |= set(cut.flatten().tolist())
        assert not rollout.loss_mask[cut].any()
        assert (rollout.set_sizes[cut] == 0).all()
        assert rollout.set_sizes.amax() <= int((~cut).sum(1).max())
        assert torch.equal(rollout.loss_mask[~cut], rollout.completion_mask[~cut])
        denominators = (2.0 * rollout.loss_mask.sum((1, 2))).clamp(min=1)
        assert torch.equal(rollout.denominators, denominators[:, None].expand(2, 4))
    assert seen == {True, False}
    for output in recorder.outputs:
        assert not output["mask"][output["truncated"]].any()


def test_a_rollout_with_nothing_but_masked_completions_gives_no_gradient(tmp_path):
    short = SamplingSettings(max_new_tokens=1)
    logged, recorder = fit(tmp_path, "token_sum", mask_truncated=True, sampling=short)
    assert logged["train/truncated"] == 1
    assert all(output["loss"] == 0 for output in recorder.outputs)
    assert all((gradient == 0).all() for gradient in recorder.gradients)
