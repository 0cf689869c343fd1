"""GSM8K's answers: a number after ``####``."""

import re
from collections.abc import Sequence
from decimal import Decimal

from lgrpo_lightning.rewards.boxed import find_last_boxed
from lgrpo_lightning.rewards.completion import Completion, Prompt, completion_text
from lgrpo_lightning.rewards.reference import check_rows, reference_text
from lgrpo_lightning.rewards.traits import Columns, reward_traits

_MARK = "####"
_DECORATION = r"[\s*$€£\\]*"  # bold stars, currency signs and their backslash
# The beginning of a fraction, a power, a time or a badly grouped number is no number.
_NUMBER = re.compile(
    rf"{_DECORATION}(?P<sign>[-+−]?){_DECORATION}"
    r"(?P<digits>\d{1,3}(?:,\d{2,3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?![.,]?\d|[eE][-+]?\d|\s*[/^:]\s*\d)"
)
# LaTeX's ways to write a thousand separator.
_LATEX_SEPARATOR = re.compile(r"\{,\}|\\[,!]")


def _number(text: str) -> Decimal | None:
    """The number at the beginning of the text, None if there is none."""
    match = _NUMBER.match(text)
    if match is None:
        return None
    value = Decimal(match["digits"].replace(",", ""))
    return -value if match["sign"] in ("-", "−") else value


def _reference_number(reference: object) -> Decimal | None:
    text = reference_text(reference)
    if text is None:
        return None
    _, mark, tail = text.rpartition(_MARK)
    number = _number(tail)
    # Without the mark the whole reference has to be the number: prose is no reference.
    is_whole = mark or re.fullmatch(_NUMBER.pattern + r"\.?\s*", text)
    if number is None or not is_whole:
        raise ValueError(
            f"the reference {text!r:.200} has no '#### N' and is no number; map the column with "
            "GSM8K's answers to 'answer', or use math_reward for other answers"
        )
    return number


def _completion_number(text: str) -> Decimal | None:
    """The number of the last ``#### N`` or box, whichever comes later."""
    boxed = find_last_boxed(text)
    mark = text.rfind(_MARK)
    if boxed is not None and boxed.start > mark:
        return _number(_LATEX_SEPARATOR.sub(_plain_separator, boxed.content))
    return None if mark < 0 else _number(text[mark + len(_MARK) :])


def _plain_separator(separator: re.Match[str]) -> str:
    return "," if separator[0] == "{,}" else ""


def _check_answers(columns: Columns) -> None:
    check_rows("answer", columns["answer"], _reference_number)


@reward_traits(per_completion=True, check_references=_check_answers)
def gsm8k_reward(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]],
    answer: Sequence[object],
    **columns: object,
) -> list[float | None]:
    r"""1.0 if the completion's final number equals GSM8K's, else 0.0.

    In the completion, ``#### N`` and ``\boxed{N}`` both count, and the last of them decides.
    Numbers are compared exactly, as decimals, after taking away thousand separators, currency
    signs and a trailing dot: ``#### $1,080.`` equals 1080.

    Args:
        prompts: not looked at.
        completions: plain or conversational completions.
        completion_ids: not looked at.
        answer: GSM8K solutions that end in ``#### N``, or plain numbers.
        columns: not looked at.

    Returns:
        A reward for each completion; None where the reference is None.

    Raises:
        ValueError: for a reference without ``#### N`` that is no number either.
    """
    rewards: list[float | None] = []
    for completion, reference in zip(completions, answer, strict=True):
        expected = _reference_number(reference)
        found = _completion_number(completion_text(completion))
        rewards.append(None if expected is None else float(found == expected))
    return rewards
