"""The callbacks in the run they are made for: LambdaGRPO, cut into parts of groups, and resumed."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM

from lgrpo_callbacks import (
    CompletionLogger,
    ExportHuggingFace,
    ProcessTreeMonitor,
    ReferenceSync,
    read_jsonl,
)
from lgrpo_lightning.data import PromptGroupDataModule
from lgrpo_lightning.module import LambdaGRPO
from lgrpo_lightning.objective import LambdaGRPOLoss
from lgrpo_lightning.policy import PolicySettings
from lgrpo_lightning.rollout import SamplingSettings
from tests.callbacks.boring import make_trainer
from tests.callbacks.weights import weights

REWARD = f"{Path(__file__).parents[1] / 'module' / 'toy_rewards.py'}:token_sum"


def fit(folder, ckpt_path=None):
    module = LambdaGRPO(
        PolicySettings("assets/tiny-addition"),
        [REWARD],
        group_size=4,
        micro_batch_size=2,
        sampling=SamplingSettings(max_new_tokens=40),
        loss=LambdaGRPOLoss(kl_coef=0.1),
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
        seed=1,
    )
    data = PromptGroupDataModule(path="assets/addition/train.jsonl", prompts_per_rollout=2)
    callbacks = [
        ProcessTreeMonitor(every_n_steps=1, picture=False),
        CompletionLogger(),
        ReferenceSync(every_n_steps=3, alpha=0.5),
        ExportHuggingFace(),
        ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1),
    ]
    trainer = make_trainer(folder, *callbacks, max_steps=8, enable_checkpointing=True)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = fit(folder / "first")
    # After step 5 the first half of the second rollout's first group has been trained on.
    second = fit(folder / "second", folder / "first" / "step=5.ckpt")
    return folder, first, second


def test_trees_hold_the_completions_token_by_token(runs):
    folder, _, _ = runs
    trees = read_jsonl(folder / "first" / "trees" / "rank-0.jsonl")
    assert [(tree["step"], tree["group"]) for tree in trees] == [(2, 0), (4, 1), (6, 0), (8, 1)]
    rows = read_jsonl(folder / "first" / "completions" / "rank-0.jsonl")
    by_group = [rows[start : start + 4] for start in range(0, 16, 4)]
    for tree, completions in zip(trees, by_group, strict=True):
        for leaf, row in zip(tree["leaves"], completions, strict=True):
            text, at = "", leaf["node"]
            while at is not None:
                text, at = "".join(tree["nodes"][at]["tokens"]) + text, tree["nodes"][at]["parent"]
            assert text.removesuffix("<eos>") == row["completion"]
            for ours, theirs in (("reward",) * 2, ("advantage",) * 2, ("length",) * 2):
                assert leaf[ours] == row[theirs]
            assert tree["prompt"] == row["prompt"]


def test_a_resumed_run_continues_its_trees_without_the_group_that_was_cut(runs):
    folder, _, _ = runs
    first, second = (
        read_jsonl(folder / run / "trees" / "rank-0.jsonl") for run in ("first", "second")
    )
    assert second == [tree for tree in first if tree["step"] != 6]


def test_a_resumed_run_ends_with_the_same_policy_and_reference(runs):
    _, first, second = runs
    for ours, theirs in (
        (first.policy, second.policy),
        (first.reference.frozen, second.reference.frozen),
    ):
        one, two = weights(ours), weights(theirs)
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(first.policy.lm_head.weight, first.reference.frozen.lm_head.weight)


def test_the_exported_policy_is_the_trained_one(runs):
    folder, _, second = runs
    loaded = AutoModelForCausalLM.from_pretrained(folder / "second" / "export" / "last")
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, second.policy.eval()(ids).logits)
