"""A policy that says nothing: every completion is the end token alone."""

import torch

from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.rollout import SamplingSettings
from tests.module.runs import TOKENS, Recorder, make_data, make_module, make_trainer


def test_nothing_but_ends_teaches_nothing_and_breaks_nothing(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, max_steps=2, callbacks=[recorder])
    silent = SamplingSettings(TOKENS, temperature=1.0, allowed_tokens=[1])
    module = make_module(sampling=silent, loss=LambdaGRPOLoss(kl_coef=0.1))
    trainer.fit(module, datamodule=make_data())
    for output in recorder.outputs:
        assert output["completions"] == [""] * 4
        assert output["lengths"].tolist() == [1] * 4
        assert not output["truncated"].any()
        assert torch.isfinite(output["loss"])
    assert all(not gradient.any() for gradient in recorder.gradients)
