"""What counts as the completion's text, and what as its answer."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgrpo_lightning.rewards import completion_text, last_boxed
from lgrpo_lightning.rewards.reference import check_rows, reference_text


def test_text_of_both_forms():
    assert completion_text("4") == "4"
    assert completion_text([{"role": "assistant", "content": "4"}]) == "4"


def test_last_assistant_message_counts():
    messages = [
        {"role": "assistant", "content": "let me look"},
        {"role": "tool", "content": "5"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "5?"},
    ]
    assert completion_text(messages) == "4"


@pytest.mark.parametrize("bad", [4, None, [], ["4"], [{"role": "user", "content": "4"}]])
def test_other_completions_are_refused(bad):
    with pytest.raises(ValueError, match="completion"):
        completion_text(bad)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {5}", "5"),
        (r"\fbox{4} \framebox{5}", "5"),
        (r"$\boxed 5$", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"} } \boxed{5} {", "5"),
        (r"\boxed{1} \boxed{2", "1"),  # cut off: the last that is whole
        (r"\boxed{}", ""),
        (r"put it into \boxed and go", None),
        (r"\boxed{5", None),
        (r"\\boxed{5", None),
        ("5", None),
        ("", None),
    ],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


braced = st.recursive(
    st.text(st.characters(blacklist_characters="{}\\"), max_size=8),
    lambda inner: st.builds("{}{{{}}}{}".format, inner, inner, inner),
    max_leaves=6,
)


@given(before=st.text(), content=braced, after=st.text(st.characters(blacklist_characters="\\}")))
def test_last_boxed_finds_any_balanced_content(before, content, after):
    text = before.rstrip("\\") + r" \boxed{" + content + "}" + after
    assert last_boxed(text) == content


def test_unclosed_boxes_cost_linear_time():
    text = r"\boxed{" * 50_000
    start = time.perf_counter()
    assert last_boxed(text) is None
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" 033 ", "033"),
        (27, "27"),
        (27.0, "27"),
        (-1.0, "-1"),
        (0.5, "0.5"),
        (1e-05, "0.00001"),
        (1e21, "1000000000000000000000"),
        (None, None),
    ],
)
def test_reference_text(value, text):
    assert reference_text(value) == text


@pytest.mark.parametrize("bad", ["", "  ", float("nan"), float("inf"), True, [1], {"a": 1}])
def test_unusable_references_are_named(bad):
    with pytest.raises(ValueError, match="reference answer"):
        reference_text(bad)


def test_check_names_column_row_and_value():
    with pytest.raises(ValueError, match=r"column 'answer', row 2: .*nan"):
        check_rows("answer", ["1", None, float("nan")], reference_text)
    with pytest.raises(ValueError, match="all 2 rows are None"):
        check_rows("answer", [None, None], reference_text)
    check_rows("answer", [], reference_text)
    check_rows("answer", ["1", None], reference_text)
