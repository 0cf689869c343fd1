"""validate, test and predict on their own."""

import pytest
import torch

from lgrpo_callbacks import RewardEvaluator
from tests.module.runs import HELD_OUT, make_data, make_module, make_trainer, reward


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_a_policy_is_evaluated_without_training(tmp_path, method):
    module = make_module(rewards=[reward("needs_answer")])
    trainer = make_trainer(tmp_path, callbacks=[RewardEvaluator()])
    found = getattr(trainer, method)(module, datamodule=make_data(eval_path=HELD_OUT))
    if method == "predict":
        assert [len(output["prompts"]) for output in found] == [3, 2]
    else:
        assert found[0]["eval/problems" if method == "validate" else "test/problems"] == 5


def test_no_prompts_to_evaluate_is_said_before_the_model_is_loaded(tmp_path):
    module = make_module()
    with pytest.raises(ValueError, match="no prompts to validate"):
        make_trainer(tmp_path).validate(module, datamodule=make_data())
    assert module.policy is None


def test_greedy_evaluation_ignores_the_seed(tmp_path):
    first, second = (
        make_trainer(tmp_path).predict(
            make_module(seed=seed), datamodule=make_data(eval_path=HELD_OUT)
        )
        for seed in (1, 2)
    )
    assert [o["completions"] for o in first] == [o["completions"] for o in second]
    assert all(torch.equal(a["rewards"], b["rewards"]) for a, b in zip(first, second, strict=True))


def test_the_size_of_evaluation_batches_does_not_matter(tmp_path):
    completions = [
        [
            text
            for output in make_trainer(tmp_path).predict(
                make_module(),
                datamodule=make_data(eval_path=HELD_OUT, eval_prompts_per_batch=size),
            )
            for text in output["completions"]
        ]
        for size in (1, 5)
    ]
    assert completions[0] == completions[1]
