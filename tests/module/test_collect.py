"""What reward functions are given: completions only, as often as there are, and their columns."""

import pytest
import torch
from transformers import AutoTokenizer

from lgrpo_lightning.collect import Collector
from lgrpo_lightning.data import PromptBatch, PromptEncoder
from lgrpo_lightning.rewards import RewardRunner
from lgrpo_lightning.rollout import SamplingSettings
from lgrpo_lightning.rollout.completions import Completions
from tests.module.runs import ADDITION

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}="
EOS = 1


class Script:
    """A sampler that returns what it is told, right-padded with the end token."""

    def __init__(self, tokenizer, texts):
        rows = [[tokenizer(text)["input_ids"] for text in group] for group in texts]
        self.rows = [[[*ids, EOS] for ids in group] for group in rows]

    def sync(self, policy):
        pass

    def sample(self, policy, prompt_ids, prompt_mask, group_size, settings, seed):
        length = max(len(ids) for group in self.rows for ids in group)
        ids = torch.tensor([[i + [EOS] * (length - len(i)) for i in group] for group in self.rows])
        lengths = torch.tensor([[len(i) for i in group] for group in self.rows])
        mask = torch.arange(length) < lengths.unsqueeze(-1)
        return Completions(ids, mask, torch.zeros(mask.shape), torch.ones_like(lengths).bool())


class Asked(RewardRunner):
    """Scores by length and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def submit(self, *arguments):
        self.asked.append(arguments)
        return self

    def result(self):
        from lgrpo_lightning.rewards import RewardTable

        _, completions, _, _ = self.asked[-1]
        rewards = [float(row) for row in range(len(completions))]
        return RewardTable({"row": rewards}, rewards, {"row": 0})


@pytest.fixture
def collected():
    tokenizer = AutoTokenizer.from_pretrained(ADDITION)
    tokenizer.chat_template = TEMPLATE
    batch = PromptBatch(
        prompts=["Q:1+1=", [{"role": "user", "content": "Q:2+2"}]],
        columns={"answer": ["2", "4"], "level": [None, 3]},
        sources=["a", "b"],
        indices=[0, 1],
    )
    runner = Asked()
    sampler = Script(tokenizer, [["2", "", "33"], ["4", "=4", "5"]])
    collector = Collector(tokenizer, PromptEncoder(tokenizer), sampler, [runner])
    cpu = torch.device("cpu")
    return collector.collect(None, batch, 3, SamplingSettings(), 0, cpu), runner.asked[0]


def test_prompts_and_columns_are_repeated_for_every_completion(collected):
    _, (prompts, completions, _, columns) = collected
    chat = [{"role": "user", "content": "Q:2+2"}]
    assert prompts == ["Q:1+1="] * 3 + [chat] * 3
    assert columns == {"answer": ["2"] * 3 + ["4"] * 3, "level": [None] * 3 + [3] * 3}
    assert len(completions) == 6


def test_completions_come_without_prompt_padding_and_special_tokens(collected):
    _, (_, completions, token_ids, _) = collected
    assert completions[:3] == ["2", "", "33"]
    assert completions[3:] == [
        [{"role": "assistant", "content": text}] for text in ("4", "=4", "5")
    ]
    assert [len(ids) for ids in token_ids] == [2, 1, 3, 2, 3, 2]  # the end token included
    assert all(ids[-1] == EOS and EOS not in ids[:-1] for ids in token_ids)


def test_rewards_come_back_group_by_group(collected):
    sampled, _ = collected
    scores = sampled.scores()
    assert scores.rewards.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert scores.rewards.dtype == scores.breakdown["row"].dtype == torch.float32
    assert sampled.texts == [["2", "", "33"], ["4", "=4", "5"]]
    assert sampled.prompts == ["Q:1+1=", "Q:2+2="]
