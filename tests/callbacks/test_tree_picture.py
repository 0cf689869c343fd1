import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_callbacks.tree_groups import GroupCollector
from lgrpo_callbacks.tree_layout import GAP, lay_out, shorten_step, text_width
from lgrpo_callbacks.tree_picture import draw_tree, picture_png
from lgrpo_callbacks.tree_record import tree_record
from tests.callbacks.trees import outputs_of


def make_record(group_size, length, seed=0, text=" word"):
    """A group whose completions part from earlier ones at random places."""
    draw = random.Random(seed)
    rows = []
    for _ in range(group_size):
        start = draw.choice(rows)[: draw.randrange(length // 4)] if rows else []
        rest = [draw.randrange(50) for _ in range(draw.randrange(length // 2, length) - len(start))]
        rows.append(start + rest)
    rows[-1] = list(rows[0])  # completions that are equal share a leaf
    rewards = [float(draw.random() < 0.5) for _ in rows]
    advantages = [reward - sum(rewards) / len(rewards) for reward in rewards]
    texts = [[f"{text}{token}" for token in row] for row in rows]
    [group] = GroupCollector({}).add(outputs_of(rows, rewards, advantages, token_texts=texts))
    return tree_record(group, 10, 0)


@pytest.mark.parametrize(("group_size", "length"), [(8, 60), (16, 1000), (64, 300)])
def test_nothing_overlaps(group_size, length):
    layout = lay_out(make_record(group_size, length))
    for placed in layout.nodes:
        assert text_width(placed.text) <= placed.right - placed.left
    for one in layout.nodes:
        for other in layout.nodes:
            apart = one.right <= other.left or other.right <= one.left
            assert one is other or apart or abs(one.y - other.y) >= 1
    assert sorted(leaf.y for leaf in layout.leaves) == list(range(group_size))
    assert layout.width <= 170


def test_a_long_group_is_shortened_and_a_short_one_is_shown_whole():
    short = lay_out(make_record(8, 16, text=""))
    assert not any("…" in placed.text for placed in short.nodes)
    long = lay_out(make_record(16, 1000))
    counts = [re.search(r"… \+(\d+)", placed.text) for placed in long.nodes]
    assert sum(count is not None for count in counts) > 10
    for placed, count in zip(long.nodes, counts, strict=True):
        shown = placed.text.count("word")
        assert shown + (int(count[1]) if count else 0) == len(placed.node["tokens"])


def test_branches_begin_where_their_parent_ends():
    layout = lay_out(make_record(8, 60))
    by_id = {placed.node["id"]: placed for placed in layout.nodes}
    for placed in layout.nodes:
        parent = placed.node["parent"]
        assert placed.left == (0 if parent is None else by_id[parent].right + GAP)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=30), st.integers(14, 60))
def test_a_shortened_text_fits(tokens, limit):
    text = shorten_step(tokens, limit)
    assert text_width(text) <= limit
    assert text or not any(tokens)


def test_texts_are_shortened_by_whole_tokens_with_the_end_kept():
    tokens = [f" w{index}" for index in range(40)]
    assert shorten_step(tokens, 40) == "w0 w1 w2 w3 w4 w5 w6 w7 … +30 … w38 w39"
    assert shorten_step(tokens[:5], 40) == "w0 w1 w2 w3 w4"
    assert shorten_step([*"abcdefghi", "x" * 60, "y"], 20) == "abcdefghi … +1 … y"
    assert shorten_step(["x" * 60, *"yz"], 20) == "xxxxxxxxxxx… … +2"
    assert shorten_step(["字" * 90], 20) == "字字字字字…"  # a token may be a line by itself
    assert shorten_step(["a\n", "\tb"], 14) == "a↵→b"
    assert shorten_step([" "], 14) == "␣"
    assert shorten_step([], 14) == ""
    assert text_width("字a\u0301") == 3


def test_a_picture_is_a_png_of_readable_size():
    png = picture_png(make_record(16, 1000))
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert 800 < width < 2200
    assert 500 < height < 1500


def test_text_is_taken_literally_and_width_and_colour_tell_size_and_sign():
    rows = [[1, 2], [1, 2], [1, 3], [4]]
    texts = [["$x_1$ ", "a^"] for _ in rows[:3]] + [["字"]]
    [group] = GroupCollector({}).add(
        outputs_of(rows, [0.0, 0.0, 1.0, 1.0], [-1.0, -1.0, 1.0, 1.0], token_texts=texts)
    )
    figure = draw_tree(tree_record(group, 1, 0))
    drawn = [text.get_text() for text in figure.axes[0].texts]
    assert "$x_1$" in drawn
    assert not any(text.get_parse_math() for text in figure.axes[0].texts)
    lines = {tuple(line.get_xdata()): line for line in figure.axes[0].lines}
    root = next(line for x, line in lines.items() if x[0] == 0 and line.get_linewidth() > 5)
    red, _, blue = root.get_color()[:3]
    assert red > blue  # the root's advantage is -1/3
    assert picture_png(tree_record(group, 1, 0))  # with a character that the font lacks


def test_an_empty_group_can_be_drawn():
    [group] = GroupCollector({}).add(outputs_of([[], []], [0.0, 0.0], [0.0, 0.0]))
    assert picture_png(tree_record(group, 1, 0)).startswith(b"\x89PNG")
