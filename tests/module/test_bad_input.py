"""What a user can get wrong is one clear ValueError before anything is trained."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from lgrpo_lightning.data import PromptLoader, PromptSet
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import PolicySettings
from lgrpo_lightning.rollout import SamplingSettings
from tests.module.runs import (
    ADDITION,
    HELD_OUT,
    ROWS,
    TOKENS,
    make_data,
    make_module,
    make_trainer,
    reward,
)

GREEDY = SamplingSettings(temperature=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1}, "group_size must be at least 2, got 1"),
        ({"num_iterations": 0}, "num_iterations must be at least 1, got 0"),
        ({"sampling": GREEDY}, "temperature is 0, so all completions of a group would be equal"),
        ({"eval_completions": 0}, "eval_completions must be at least 1, got 0"),
        ({"eval_completions": 2}, "with evaluation.temperature 0 they would all be equal"),
        ({"eval_rewards": [reward("token_sum")]}, "'token_sum' is among rewards and eval_rewards"),
        ({"eval_rewards": [reward("no_such_function")]}, "no_such_function"),
        ({"sampler_batch_size": 0}, "sampler_batch_size must be at least 1, got 0"),
        ({"sampler": "vlmm"}, "sampler must be one of .* got 'vlmm'"),
        ({"aggregation": "token"}, "aggregation must be one of .* got 'token'"),
        ({"advantage_scale": "row"}, "advantage_scale must be one of .* got 'row'"),
        ({"on_reward_error": "ignore"}, "on_error must be 'raise' or 'skip', got 'ignore'"),
        ({"reward_time_limit": 0}, "time_limit must be in .* got 0"),
        ({"rewards": []}, "there are no rewards"),
        ({"rewards": "my.reward"}, "rewards must be a list"),
        ({"rewards": ["no_such_package.reward"]}, "no_such_package"),
        ({"rewards": [reward("no_such_function")]}, "no_such_function"),
        ({"rewards": [lambda completions, **columns: []]}, "can't be pickled"),
        ({"importance_cap": 0.5}, "importance_cap must be at least 1, .* got 0.5"),
        ({"dynamic_sampling": {"max_rounds": 0}}, "max_rounds must be at least 1, got 0"),
        ({"loss": 0.1}, "expected LambdaGRPOLoss or a mapping of its fields, got 0.1"),
    ],
)
def test_arguments_of_the_module(options, message):
    with pytest.raises(ValueError, match=message):
        make_module(**options)


def test_a_loss_of_one_module_is_not_that_of_another():
    first, second = make_module(), make_module()
    first.loss.kl_coef = 0.5
    assert second.loss.kl_coef == LambdaGRPOLoss().kl_coef == 0


def fit(folder, module, data=None, **options):
    """Fit; if that fails, no weights have been loaded."""
    trainer = make_trainer(folder, **{"max_steps": 1, **options})
    try:
        trainer.fit(module, datamodule=make_data() if data is None else data)
    finally:
        assert module.policy is None


@pytest.mark.parametrize(
    ("options", "trainer", "message"),
    [
        (
            {"micro_batch_size": 3},
            {},
            r"micro_batch_size 3 does not divide the rollout of 2 prompts × 2 completions = 4; "
            r"take one of \[1, 2, 4\]",
        ),
        ({"micro_batch_size": 0}, {}, "micro_batch_size 0 does not divide"),
        (
            {"micro_batch_size": 1},
            {"accumulate_grad_batches": 3},
            "accumulate_grad_batches 3 does not divide the rollout's 4 micro-batches",
        ),
        ({"engine": "fast"}, {}, "engine must be 'auto', .* or 'padded', got 'fast'"),
        ({"engine": "tree_flex"}, {}, "compiles kernels for CUDA, but the model runs on cpu"),
        (
            {"max_tokens_per_row": 15},
            {},
            "max_tokens_per_row is 15, but a group may come to 18 unique tokens: 8 of the longest "
            "prompt and 10 of its completions",
        ),
        (
            {"max_tokens_per_row": 100, "engine": "padded"},
            {},
            "only the tree engine packs rows and this run uses the padded one",
        ),
        (
            {"sampling": SamplingSettings(max_new_tokens=125)},
            {},
            r"row \d of memory has \d prompt tokens; with sampling.max_new_tokens 125 that "
            "exceeds the model's context of 128 tokens",
        ),
        (
            {"sampling": SamplingSettings(TOKENS, allowed_tokens=["12"])},
            {},
            "allowed_tokens: '12' is 2 tokens of this tokenizer, not one",
        ),
        (
            {"evaluation": SamplingSettings(TOKENS, allowed_tokens=[99])},
            {},
            "99 is no id below 20",
        ),
    ],
)
def test_what_does_not_fit_together(tmp_path, options, trainer, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, make_module(**options), **trainer)


def test_evaluation_prompts_are_checked_before_training(tmp_path):
    data = make_data(eval_path=[*HELD_OUT, {"prompt": "Q:" + "1" * 120, "answer": "0"}])
    evaluation = SamplingSettings(max_new_tokens=TOKENS + 5, temperature=0.0)
    with pytest.raises(ValueError, match=r"row 5 of memory.*evaluation.max_new_tokens 10"):
        fit(tmp_path, make_module(evaluation=evaluation), data)


@pytest.mark.parametrize("row", [{"prompt": "Q:1+1="}, {"prompt": "Q:1+1=", "solution": "2"}])
def test_a_column_that_a_reward_needs(tmp_path, row):
    with pytest.raises(ValueError, match=r"needs_answer.*answer"):
        fit(
            tmp_path,
            make_module(rewards=[reward("needs_answer")]),
            make_data([row, {**row, "prompt": "Q:1+2="}]),
        )


def test_a_reference_that_a_reward_cannot_read(tmp_path):
    rows = [*ROWS[:4], {"prompt": "Q:1+1=", "answer": "it depends"}]
    module = make_module(rewards=["lgrpo_lightning.rewards.gsm8k_reward"])
    with pytest.raises(ValueError, match=r"gsm8k_reward.*row 4.*it depends"):
        fit(tmp_path, module, make_data(rows))


def without(folder, token):
    """A copy of the tiny policy whose tokenizer lacks a special token."""
    shutil.copytree(ADDITION, folder / "model")
    for name, key in (("tokenizer_config.json", f"{token}_token"), ("tokenizer.json", "padding")):
        file = folder / "model" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: None}))
    return str(folder / "model")


def test_a_model_without_an_end_token_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has no end-of-sequence token, so no completion would"):
        fit(tmp_path, make_module(without(tmp_path, "eos")))


def test_a_model_without_a_pad_token_trains(tmp_path):
    module = make_module(without(tmp_path, "pad"))
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(module, datamodule=make_data())
    assert module.tokenizer.pad_token_id == module.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no/such/folder", "policy.path 'no/such/folder' does not exist"),
        (str(Path(ADDITION).parent), "has no config.json"),
        ("nobody/nothing", "no tokenizer could be loaded from 'nobody/nothing'"),
        ("", "policy.path is empty"),
    ],
)
def test_a_path_that_is_no_model(tmp_path, path, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, make_module(path))


def test_batches_of_another_loader_are_refused(tmp_path):
    loader = DataLoader(torch.arange(4))
    with pytest.raises(ValueError, match="trains on PromptBatch, the loader dealt Tensor"):
        make_trainer(tmp_path, max_steps=1).fit(make_module(), loader)
    with pytest.raises(ValueError, match="trains on PromptBatch, the loader dealt Tensor"):
        make_trainer(tmp_path).validate(make_module(), loader)


def test_a_loader_that_deals_rollouts_too_rarely_is_refused(tmp_path):
    loader = PromptLoader(PromptSet.load(ROWS), prompts_per_batch=2)
    with pytest.raises(ValueError, match=r"deals each rollout 1 times, but .* steps_per_batch=4"):
        make_trainer(tmp_path, max_steps=1).fit(make_module(micro_batch_size=1), loader)


def test_a_kl_coefficient_set_after_the_start_needs_a_reference(tmp_path):
    module = make_module()
    module.loss.kl_coef = 0.1
    with pytest.raises(ValueError, match="so the loss needs ref_logprobs; got None"):
        make_trainer(tmp_path, max_steps=1).fit(module, datamodule=make_data())


def test_settings_of_the_policy():
    with pytest.raises(ValueError, match=r"lora.r must be at least 1, got 0"):
        PolicySettings(ADDITION, lora={"r": 0})
