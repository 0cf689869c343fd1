"""Rewards are computed by worker processes while this one takes old and reference log-probs."""

import pytest

from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.scorer import Scorer
from tests.module.runs import Recorder, make_data, make_module, make_trainer, reward


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"num_iterations": 2}, 1),
        ({"loss": LambdaGRPOLoss(kl_coef=0.1)}, 1),
        ({"num_iterations": 2, "loss": LambdaGRPOLoss(kl_coef=0.1)}, 2),
    ],
    ids=["old", "reference", "both"],
)
def test_rewards_are_computed_meanwhile(tmp_path, monkeypatch, options, passes):
    """A reward waits for a file that is written once the last of the passes is over."""
    done = tmp_path / "done"
    whole, calls = Scorer.whole, []

    def noted(self, model, *arguments):
        logprobs = whole(self, model, *arguments)
        calls.append(type(model))
        if len(calls) == passes:
            done.touch()
        return logprobs

    monkeypatch.setattr(Scorer, "whole", noted)
    rows = [{"prompt": f"Q:{number}+1=", "signal": str(done)} for number in range(4)]
    module = make_module(rewards=[reward("waits_for_a_file")], reward_time_limit=50, **options)
    recorder = Recorder()
    trainer = make_trainer(tmp_path, callbacks=[recorder], max_steps=1)
    trainer.fit(module, datamodule=make_data(rows))
    assert len(calls) == passes
    assert (recorder.outputs[0]["rewards"] == 1).all()
