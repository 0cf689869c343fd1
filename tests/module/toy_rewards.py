"""Reward functions for the tests of the module, in a file that reward workers can import."""

import time
from pathlib import Path


def token_sum(completions, completion_ids, **columns):
    """Differs between most completions, and is a function of the tokens alone."""
    return [sum(ids) % 7 / 2 for ids in completion_ids]


def starts_with_digit(completions, **columns):
    return [float(text[:1].isdigit()) for text in completions]


def always_one(completions, **columns):
    return [1.0] * len(completions)


def never_applies(completions, **columns):
    return [None] * len(completions)


def applies_to_every_other(completions, completion_ids, **columns):
    return [None if row % 2 else sum(ids) % 7 for row, ids in enumerate(completion_ids)]


def fails(completions, **columns):
    raise RuntimeError("the judge is out")


def needs_answer(completions, answer, **columns):
    return [float(text == wanted) for text, wanted in zip(completions, answer, strict=True)]


def row_number(completions, **columns):
    """Differs within every group, whatever was sampled."""
    return [float(row) for row in range(len(completions))]


def number_where_even(completions, answer, **columns):
    """Differs within the groups whose answer is even; 1 in all others."""
    return [1.0 if int(wanted) % 2 else float(row % 2) for row, wanted in enumerate(answer)]


def waits_for_a_file(completions, signal, **columns):
    """1 once the file is there; 0 if it does not come."""
    deadline = time.monotonic() + 40
    while not Path(signal[0]).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return [float(Path(signal[0]).exists())] * len(completions)
