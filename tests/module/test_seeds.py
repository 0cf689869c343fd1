"""Reproducible to the bit, and nobody else's random numbers are touched."""

import pytest
import torch
from lightning.pytorch import Callback, seed_everything

from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import LoRASettings
from lgrpo_lightning.rollout import SamplingSettings
from tests.module.runs import (
    HELD_OUT,
    TOKENS,
    Recorder,
    equal,
    make_data,
    make_module,
    make_trainer,
    weights,
)

HOT = SamplingSettings(max_new_tokens=TOKENS, temperature=6.0)


def fit(folder, data=None, callbacks=(), **options):
    recorder = Recorder()
    module = make_module(**{"num_iterations": 2, **options})
    trainer = make_trainer(folder, max_steps=6, callbacks=[recorder, *callbacks])
    trainer.fit(module, datamodule=data or make_data())
    return weights(module), [rollout.completions for rollout in recorder.rollouts]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"micro_batch_size": 1, "loss": LambdaGRPOLoss(kl_coef=0.1)},
        {"policy": {"lora": LoRASettings(r=2, dropout=0.3)}},
    ],
    ids=["plain", "micro_batches", "lora"],
)
def test_the_same_seed_makes_the_same_run(tmp_path, options):
    torch.manual_seed(0)  # of a fresh adapter
    first = fit(tmp_path, **options)
    torch.manual_seed(0)
    second = fit(tmp_path, **options)
    assert equal(first[0], second[0])
    assert first[1] == second[1]


def test_another_seed_makes_another_run(tmp_path):
    assert fit(tmp_path, seed=3)[1] != fit(tmp_path, seed=4)[1]


def test_every_rollout_has_a_seed_of_its_own(tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[recorder])
    trainer.fit(make_module(), datamodule=make_data(make_data().path[:2], shuffle=False))
    first, second = recorder.rollouts
    assert first.prompts == second.prompts
    assert first.completions != second.completions


def test_the_rank_enters_the_seed(tmp_path):
    module = make_module()
    module.trainer = make_trainer(tmp_path)
    alone = module.place_seed("rollout", 0, 0)
    module.trainer.strategy.global_rank = 1
    assert module.place_seed("rollout", 0, 0) != alone


def test_the_seed_is_that_of_seed_everything_by_default(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert make_module(seed=None).seed == 0
    with torch.random.fork_rng():
        seed_everything(11, verbose=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")  # set by the line above, restored afterwards
    assert make_module(seed=None).seed == 11
    assert make_module(seed=5).seed == 5


def test_evaluations_of_a_run_draw_the_same_random_numbers(tmp_path):
    recorder = Recorder()
    module = make_module(
        evaluation=HOT,
        eval_completions=3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0),
    )
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[recorder])
    trainer.fit(module, datamodule=make_data(eval_path=HELD_OUT))
    batches = [output["completions"] for output in recorder.evaluated]
    assert batches[:2] == batches[2:]
    (first, second) = batches[:2]
    assert len(set(first[0])) > 1
    assert first != second


def test_evaluation_does_not_change_training(tmp_path):
    data = make_data(eval_path=HELD_OUT)
    alone, watched = fit(tmp_path), fit(tmp_path, data, evaluation=HOT)
    assert equal(alone[0], watched[0])


class GlobalState(Callback):
    """Keeps the global random state from before the first rollout to after the last step."""

    def on_train_start(self, trainer, pl_module):
        self.before = torch.get_rng_state()

    def on_train_end(self, trainer, pl_module):
        self.after = torch.get_rng_state()


def test_the_global_random_state_is_left_alone(tmp_path):
    state = GlobalState()
    lora = {"lora": LoRASettings(r=2, dropout=0.3)}
    fit(tmp_path, make_data(eval_path=HELD_OUT), [state], policy=lora, evaluation=HOT)
    assert torch.equal(state.before, state.after)


def test_runs_do_not_depend_on_the_global_random_state(tmp_path):
    torch.manual_seed(1)
    first = fit(tmp_path)
    torch.manual_seed(2)
    assert equal(first[0], fit(tmp_path)[0])
