import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgrpo_lightning.metrics import NamedMeans


def means(*updates, names=("a", "b")):
    metric = NamedMeans(list(names))
    for update in updates:
        metric.update(update)
    return metric.compute()


def test_a_mean_is_a_ratio_of_sums_not_a_mean_of_means():
    assert means({"a": (1.0, 1)}, {"a": (0.0, 3)}, names=["a"]) == {"a": 0.25}


def test_names_keep_apart_whatever_their_order():
    found = means({"b": (4.0, 2), "a": (1.0, 1)}, {"a": (3.0, 1)}, names=["b", "a"])
    assert found == {"a": 2.0, "b": 2.0}


def test_what_was_never_counted_is_nan():
    found = means({"a": (1.0, 1)})
    assert found["a"] == 1
    assert math.isnan(found["b"])


def test_unknown_and_repeated_names_are_refused():
    with pytest.raises(ValueError, match=r"unknown names \['c'\]; known are \['a', 'b'\]"):
        means({"c": (1.0, 1)})
    with pytest.raises(ValueError, match="names must differ"):
        NamedMeans(["a", "a"])


def test_tensors_of_any_type_are_taken():
    found = means(
        {"a": (torch.tensor(6), torch.tensor(4)), "b": (torch.tensor(0.5).double(), 2)},
        {"a": (torch.tensor(1.0, dtype=torch.bfloat16), 1), "b": (torch.tensor(True), 1)},
    )
    assert found == pytest.approx({"a": 7 / 5, "b": 1.5 / 3})


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(1, 5)), min_size=1, max_size=20),
    st.data(),
)
def test_the_mean_does_not_depend_on_how_updates_are_shared_out(pairs, data):
    cut = data.draw(st.integers(0, len(pairs)))
    parts = [NamedMeans(["a"]) for _ in range(2)]
    for part, updates in zip(parts, (pairs[:cut], pairs[cut:]), strict=True):
        for pair in updates:
            part.update({"a": pair})
    total = parts[0].sums + parts[1].sums  # what a reduction over processes does
    whole = NamedMeans(["a"])
    for pair in pairs:
        whole.update({"a": pair})
    torch.testing.assert_close(total, whole.sums)
    expected = sum(value for value, _ in pairs) / sum(count for _, count in pairs)
    assert whole.compute()["a"] == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_counts_are_exact_whatever_the_default_type_is(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        # In bfloat16, 1001 would be 1000 and 1 more would be lost.
        metric = NamedMeans(["a"])
        metric.update({"a": (1001.0, 1001)})
        metric.update({"a": (1.0, 1)})
        assert metric.sums.dtype == torch.float32
        assert metric.sums.tolist() == [[1002, 1002]]
    finally:
        torch.set_default_dtype(before)
