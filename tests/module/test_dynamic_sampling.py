"""Dynamic sampling: which groups are replaced, by what, what is logged, and on several ranks."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lgrpo_lightning.collect import Sampled, Scores
from lgrpo_lightning.data import PromptLoader, PromptSet
from lgrpo_lightning.data.sampler import PromptSampler
from lgrpo_lightning.resampling import DynamicSampling, replace_groups
from lgrpo_lightning.rollout import Completions
from lgrpo_lightning.rollout.assemble import alone
from tests.module.runs import Recorder, make_data, make_module, make_trainer, reward

MIXED = [{"prompt": f"Q:{a}+0=", "answer": str(a)} for a in range(12)]


def groups(*specs):
    """Groups from (name, prompt length, completion lengths, rewards); tokens tell where from."""
    size = max(length for _, length, _, _ in specs)
    longest = max(max(lengths) for _, _, lengths, _ in specs)
    codes = torch.tensor([ord(name) for name, *_ in specs])
    prompt_mask = torch.stack([torch.arange(size) >= size - p for _, p, _, _ in specs])
    lengths = torch.tensor([lengths for _, _, lengths, _ in specs])
    mask = torch.arange(longest) < lengths.unsqueeze(-1)
    rewards = torch.tensor([rewards for *_, rewards in specs])
    return Sampled(
        prompt_ids=codes.unsqueeze(1) * prompt_mask,
        prompt_mask=prompt_mask,
        completions=Completions(
            codes.view(-1, 1, 1) * mask, mask, -codes.view(-1, 1, 1) * mask.float(), lengths < 4
        ),
        prompts=[name for name, *_ in specs],
        texts=[[f"{name}{row}" for row in range(2)] for name, *_ in specs],
        scores=lambda: Scores(rewards, {"half": rewards / 2}, {"half": 1}),
    )


def scripted(*rounds):
    """A source of groups that checks how many are asked for."""
    asked = []

    def draw(turn, count):
        assert turn == len(asked)
        asked.append(count)
        return groups(*rounds[turn][:count])

    return draw, asked


def check_whole(sampled):
    """Everything of a group came along, and nothing is wider than it needs to be."""
    codes = torch.tensor([ord(name) for name in sampled.prompts])
    out = sampled.completions
    assert torch.equal(sampled.prompt_ids, codes.unsqueeze(1) * sampled.prompt_mask)
    assert torch.equal(out.ids, codes.view(-1, 1, 1) * out.mask)
    assert torch.equal(out.logprobs, -codes.view(-1, 1, 1) * out.mask.float())
    assert torch.equal(out.finished, out.lengths < 4)
    assert [texts[0][0] for texts in sampled.texts] == sampled.prompts
    assert sampled.prompt_mask.any(0).all()
    assert sampled.prompt_mask[:, -1].all()  # padded on the left
    assert out.mask.flatten(0, 1).any(0).all()
    scores = sampled.scores()
    assert torch.equal(scores.breakdown["half"], scores.rewards / 2)


def test_groups_are_replaced_until_all_have_variance():
    sampled = groups(
        ("a", 5, (9, 2), (1.0, 1.0)), ("b", 2, (1, 4), (0.0, 1.0)), ("c", 1, (2, 2), (0.0, 0.0))
    )
    draw, asked = scripted(
        [("d", 3, (3, 3), (0.0, 0.0)), ("e", 4, (1, 2), (0.5, 0.0))],
        [("f", 1, (6, 1), (0.0, 1.0))],
    )
    out, totals = replace_groups(sampled, 3, draw, alone, in_step=False)
    assert asked == [2, 1]
    assert out.prompts == ["e", "b", "f"]
    check_whole(out)
    assert out.scores().rewards.tolist() == [[0.5, 0.0], [0.0, 1.0], [0.0, 1.0]]
    assert out.scores().errors == {"half": 3}  # of all that was scored
    means = {name: float(total) / float(count) for name, (total, count) in totals.items()}
    assert means["resampled_groups"] == 1  # 3 for 3 groups
    assert means["zero_variance_groups_left"] == 0
    # What the policy did on the prompts it was dealt.
    assert means["reward"] == means["rewards/half"] * 2 == 0.5
    assert means["zero_variance_groups"] == pytest.approx(2 / 3)
    assert means["length"] == pytest.approx(20 / 6)


def test_rounds_are_bounded_and_what_is_left_stays_in():
    sampled = groups(("a", 1, (1, 1), (1.0, 1.0)), ("b", 1, (1, 4), (0.0, 1.0)))
    equal = [("d", 3, (3, 3), (0.0, 0.0))]
    draw, asked = scripted(equal, equal, equal)
    out, totals = replace_groups(sampled, 2, draw, alone, in_step=False)
    assert asked == [1, 1]
    assert out.prompts == ["a", "b"]
    check_whole(out)
    assert totals["zero_variance_groups_left"] == (1, 2)
    assert totals["resampled_groups"] == (2, 2)


@pytest.mark.parametrize(("in_step", "asked_of_second"), [(False, []), (True, [1, 1])])
def test_processes_make_the_same_number_of_rounds(in_step, asked_of_second):
    barrier, shared = threading.Barrier(2, timeout=20), {}

    def rank(number):
        calls = itertools.count()

        def gather(value):
            turn = next(calls)
            shared[turn, number] = value
            barrier.wait()
            return torch.stack([shared[turn, 0], shared[turn, 1]])

        first = ("a", 1, (1, 1), (float(number), 1.0 - number * 0.5))
        sampled = groups(("z", 1, (1, 1), (1.0, 1.0)) if number == 0 else first)
        draw, asked = scripted(
            [("b", 1, (1, 1), (0.0, 0.0))], [("c", 1, (1, 1), (0.0, 1.0))], [first]
        )
        out, totals = replace_groups(sampled, 5, draw, gather, in_step)
        return out.prompts, asked, totals["resampled_groups"][0], next(calls)

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(rank, range(2))
    assert one == (["c"], [1, 1], 2, 3)
    assert two == (["a"], asked_of_second, 0, 3)


def test_spare_rows_are_others_for_every_rank_turn_and_rollout():
    samplers = [
        PromptSampler(40, 3, shuffle=True, seed=5, rank=rank, world_size=2, drop_last=True)
        for rank in range(2)
    ]
    for epoch, rollout in ((0, 0), (0, 1), (1, 0)):
        dealt = {row for s in samplers for row in s.order(epoch)[s.share(rollout)]}
        spare = [s.spare(epoch, rollout, turn, 3) for s in samplers for turn in range(3)]
        rows = [row for part in spare for row in part]
        assert len(set(rows)) == len(rows) == 18
        assert not dealt & set(rows)
        assert samplers[0].spare(epoch, rollout, 0, 2) == spare[0][:2]
    assert samplers[0].spare(0, 0, 0, 3) != samplers[0].spare(0, 1, 0, 3)


def test_few_rows_repeat_and_a_rollout_of_all_rows_is_drawn_again():
    some = PromptSampler(5, 3, shuffle=True, seed=0, drop_last=True)
    left = set(range(5)) - set(some.order(0)[some.share(0)])
    assert set(some.spare(0, 0, 0, 3)) == left
    every = PromptSampler(3, 3, shuffle=True, seed=0, drop_last=True)
    assert sorted(every.spare(0, 0, 1, 3)) == [0, 1, 2]


@pytest.mark.parametrize("size", [None, 4])
def test_a_run_trains_on_groups_with_variance(tmp_path, size):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, callbacks=[recorder], max_steps=3)
    module = make_module(
        group_size=4,
        micro_batch_size=size,
        rewards=[reward("number_where_even")],
        dynamic_sampling=DynamicSampling(4),
    )
    trainer.fit(module, datamodule=make_data(MIXED, prompts_per_rollout=4))
    known = {row["prompt"]: int(row["answer"]) for row in MIXED}
    for rollout in recorder.rollouts:
        answers = [known[prompt] for prompt in rollout.prompts]
        assert all(answer % 2 == 0 for answer in answers)
        assert rollout.rewards.tolist() == [[0.0, 1.0] * 2] * 4
    dealt = [known[prompt] for prompt in recorder.batches[-1].prompts]
    odd = sum(answer % 2 for answer in dealt)
    logged = trainer.logged_metrics
    assert odd > 0
    assert logged["train/reward"] == pytest.approx((odd + (4 - odd) / 2) / 4)
    assert logged["train/zero_variance_groups"] == odd / 4
    assert logged["train/zero_variance_groups_left"] == 0
    assert logged["train/resampled_groups"] >= odd / 4
    if size is None:
        assert all(gradient.abs().sum() > 0 for gradient in recorder.gradients)


def test_it_needs_a_loader_with_other_prompts(tmp_path):
    class Plain:
        """Deals what a PromptLoader deals."""

        def __init__(self):
            self.loader = PromptLoader(PromptSet.load(MIXED), 2)

        def __len__(self):
            return len(self.loader)

        def __iter__(self):
            return iter(self.loader)

    module = make_module(dynamic_sampling=DynamicSampling())
    with pytest.raises(ValueError, match=r"draws other prompts from a PromptLoader, .* is Plain"):
        make_trainer(tmp_path, max_steps=1).fit(module, train_dataloaders=Plain())
