"""What only evaluation does: rewards of its own, answers, and no reference."""

import pytest
import torch

from lgrpo_callbacks import RewardEvaluator
from lgrpo_lightning import policy_module
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.rewards import RewardSpec
from lgrpo_lightning.rollout import SamplingSettings
from tests.module.runs import (
    ADDITION,
    HELD_OUT,
    ROOT,
    TOKENS,
    Recorder,
    make_data,
    make_module,
    make_trainer,
    reward,
)

HOT = SamplingSettings(max_new_tokens=TOKENS, temperature=6.0)
KL = {"loss": LambdaGRPOLoss(kl_coef=0.1)}


def predicted(folder, **options):
    """What the first evaluation step returns."""
    module = make_module(**options)
    return make_trainer(folder).predict(module, datamodule=make_data(eval_path=HELD_OUT))[0]


def test_rewards_for_evaluation_are_reported_and_weigh_nothing_unless_said(tmp_path):
    plain = predicted(tmp_path)
    watched = predicted(
        tmp_path,
        eval_rewards=[
            reward("starts_with_digit"),
            RewardSpec(reward("always_one"), weight=0.5),
            reward("never_applies"),
        ],
    )
    breakdown = watched["reward_breakdown"]
    assert list(breakdown) == ["token_sum", "starts_with_digit", "always_one", "never_applies"]
    assert torch.equal(breakdown["token_sum"], plain["rewards"])
    assert torch.equal(watched["rewards"], plain["rewards"] + 0.5)
    assert breakdown["never_applies"].isnan().all()


def test_training_does_without_them(tmp_path):
    recorder = Recorder()
    evaluator = RewardEvaluator()
    module = make_module(eval_rewards=[reward("always_one")])
    trainer = make_trainer(tmp_path, max_steps=4, callbacks=[recorder, evaluator])
    trainer.fit(module, datamodule=make_data(eval_path=HELD_OUT))
    assert all(output["reward_breakdown"].keys() == {"token_sum"} for output in recorder.outputs)
    assert evaluator.history[0]["metrics"]["eval/reward_function/always_one"] == 1


def test_their_columns_are_checked_where_they_are_used(tmp_path):
    rows = [{"prompt": "Q:1+1="}]
    options = {"eval_rewards": [reward("needs_answer")]}
    trained = make_data(rows * 4, eval_path=HELD_OUT)
    make_trainer(tmp_path, max_steps=1).fit(make_module(**options), datamodule=trained)
    with pytest.raises(ValueError, match="'needs_answer' needs the column 'answer'"):
        make_trainer(tmp_path).validate(
            make_module(**options), datamodule=make_data(eval_path=rows)
        )


def shout(completion):
    return completion.upper() or None


def number(completion):
    return 7


def test_answers_are_what_the_extractor_finds(tmp_path):
    assert predicted(tmp_path)["answers"] == [[None]] * 3  # five tokens hold no box
    shouted = predicted(tmp_path, answer_extractor=shout)
    assert shouted["answers"] == [[text.upper()] for (text,) in shouted["completions"]]
    assert "answers" not in predicted(tmp_path, answer_extractor=None)
    with pytest.raises(ValueError, match=r"answer_extractor 'number' must return a text, .* 7"):
        predicted(tmp_path, answer_extractor=number)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.answer", "answer_extractor .*no module 'no_such_package'"),
        ("lgrpo_lightning.rewards.final_answr", "did you mean 'final_answer'"),
        ("lgrpo_lightning.__version__", "is a str, which can't be called"),
    ],
)
def test_an_extractor_that_is_none_is_named_at_once(path, message):
    with pytest.raises(ValueError, match=message):
        make_module(answer_extractor=path)


def test_majorities_of_a_whole_evaluation(tmp_path):
    evaluator = RewardEvaluator(k=3)
    module = make_module(
        path=ADDITION,
        rewards=["lgrpo_lightning.rewards.boxed_match_reward"],
        evaluation=SamplingSettings(max_new_tokens=64),
        eval_completions=3,
    )
    data = make_data(eval_path=str(ROOT / "assets" / "addition" / "heldout.jsonl"), eval_limit=16)
    make_trainer(tmp_path, callbacks=[evaluator]).validate(module, datamodule=data, verbose=False)
    metrics = evaluator.history[0]["metrics"]
    assert 0 < metrics["eval/maj@3"] <= metrics["eval/pass@3"] <= 1


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_the_reference_is_not_loaded(tmp_path, method):
    module = make_module(**KL)
    getattr(make_trainer(tmp_path), method)(module, datamodule=make_data(eval_path=HELD_OUT))
    assert module.policy is not None
    assert module.reference is None


def test_training_after_an_evaluation_has_the_initial_reference(tmp_path):
    initial = make_module(**KL)
    first = make_trainer(tmp_path, max_steps=4)
    first.fit(initial, datamodule=make_data())
    first.save_checkpoint(tmp_path / "a.ckpt")
    weights = {name: value.clone() for name, value in initial.reference.frozen.state_dict().items()}
    again = make_module(**KL)
    data = make_data(eval_path=HELD_OUT)
    make_trainer(tmp_path).validate(again, datamodule=data, ckpt_path=tmp_path / "a.ckpt")
    make_trainer(tmp_path, max_steps=1).fit(again, datamodule=data)
    for name, value in again.reference.frozen.state_dict().items():
        assert torch.equal(value, weights[name])


def test_each_model_is_prepared_once(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(policy_module, "compile_blocks", seen.append)
    module = make_module(policy={"compile": True}, **KL)
    data = make_data(eval_path=HELD_OUT)
    make_trainer(tmp_path).validate(module, datamodule=data)
    for _ in range(2):
        make_trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    assert [id(model) for model in seen] == [id(module.policy), id(module.reference.frozen)]
