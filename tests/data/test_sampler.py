import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import SequentialSampler

from lgrpo_lightning.data.sampler import PromptSampler


def shares(rows, size, world, **options):
    """Return for each rollout the row numbers of each rank."""
    samplers = [
        PromptSampler(rows, size, rank=rank, world_size=world, **options) for rank in range(world)
    ]
    assert len({sampler.num_rollouts for sampler in samplers}) == 1
    orders = [sampler.order(0) for sampler in samplers]
    return [
        [order[s.share(k)] for s, order in zip(samplers, orders, strict=True)]
        for k in range(samplers[0].num_rollouts)
    ]


def test_training_shares_by_hand():
    dealt = shares(9, 2, 2, shuffle=False, seed=0, drop_last=True)
    assert dealt == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_evaluation_shares_by_hand():
    assert shares(11, 2, 2, shuffle=False, seed=0, drop_last=False) == [
        [[0, 1], [2, 3]],
        [[4, 5], [6, 7]],
        [[8], [9, 10]],
    ]


def test_a_remainder_smaller_than_the_ranks_joins_the_rollout_before():
    dealt = shares(9, 2, 2, shuffle=False, seed=0, drop_last=False)
    assert dealt == [[[0, 1], [2, 3]], [[4, 5], [6, 7, 8]]]


@given(
    rows=st.integers(1, 60),
    size=st.integers(1, 7),
    world=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_evaluation_deals_every_row_once_and_every_rank_every_time(rows, size, world, seed):
    if rows < world:
        return
    dealt = shares(rows, size, world, shuffle=False, seed=seed, drop_last=False)
    flat = [row for rollout in dealt for share in rollout for row in share]
    assert flat == list(range(rows))
    sizes = [len(share) for rollout in dealt for share in rollout]
    assert min(sizes) >= 1
    assert max(sizes) <= size + 1
    if rows % (size * world) >= world or rows % (size * world) == 0:
        assert max(sizes) <= size


@given(rows=st.integers(24, 60), seed=st.integers(0, 2**32 - 1))
def test_the_global_order_does_not_depend_on_the_number_of_ranks(rows, seed):
    def merged(size, world):
        dealt = shares(rows, size, world, shuffle=True, seed=seed, drop_last=True)
        return [[row for share in rollout for row in share] for rollout in dealt]

    assert merged(12, 1) == merged(6, 2) == merged(3, 4)


def test_the_order_follows_seed_and_epoch():
    def order(seed, epoch):
        return PromptSampler(50, 5, shuffle=True, seed=seed, drop_last=True).order(epoch)

    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == list(range(50))
    # seed + epoch would make the last two equal
    assert len({tuple(order(*pair)) for pair in [(0, 0), (1, 0), (0, 1)]}) == 3


def test_iterating_gives_the_rows_of_the_named_epoch():
    sampler = PromptSampler(9, 2, shuffle=True, seed=1, rank=1, world_size=2, drop_last=True)
    sampler.set_epoch(3)
    order = sampler.order(3)
    assert list(sampler) == order[2:4] + order[6:8]
    assert len(sampler) == 4


def test_lightning_takes_it_for_sequential():
    assert issubclass(PromptSampler, SequentialSampler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_rows": 7, "world_size": 2}, "7 prompts do not fill one rollout of 8"),
        ({"prompts_per_batch": 0}, "prompts_per_batch is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"seed": -1}, "seed is -1"),
        ({"num_rows": 1, "world_size": 2, "drop_last": False}, "1 prompts cannot be shared by 2"),
    ],
)
def test_wrong_numbers_are_named(options, message):
    defaults = {"num_rows": 8, "prompts_per_batch": 4, "shuffle": True, "seed": 0}
    with pytest.raises(ValueError, match=message):
        PromptSampler(**{**defaults, "drop_last": True, **options})
