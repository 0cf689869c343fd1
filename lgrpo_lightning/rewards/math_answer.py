"""Reward for a mathematically right answer, judged by math-verify."""

import logging
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

from lgrpo_lightning.rewards.answer import normal_form
from lgrpo_lightning.rewards.boxed import last_boxed
from lgrpo_lightning.rewards.completion import Completion, Prompt, completion_text
from lgrpo_lightning.rewards.reference import check_rows, reference_text
from lgrpo_lightning.rewards.traits import Columns, reward_traits

_MOST_CHECKED = 2_000  # references; parsing takes milliseconds each
_MARK = "####"  # before the answer in GSM8K's solutions
Unreadable = Literal["refuse", "as_text"]
_WORDS = re.compile(r"[A-Za-z]{3,}(?:\s+[A-Za-z]+)*")
# AIME's \boxed{\textbf{(073) }}, which math-verify reads as the word 073.
_STYLED_NUMBER = re.compile(r"\\(?:text|math)(?:bf|rm|it|)\{\s*\(?\s*(-?\d[\d.,]*)\s*\)?\s*\}")
_MATH_DELIMITERS = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)


def _warm_up() -> None:
    """Import math-verify (and with it sympy), which takes up to seconds."""
    try:
        import math_verify.grader
        import math_verify.parser
    except ImportError as error:
        raise ValueError(
            f"math_reward needs math-verify ({error}); install it: pip install math-verify"
        ) from error
    for module in (math_verify.grader, math_verify.parser):
        module.logger.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # math-verify's own time-outs are switched off on purpose: they work by signals, which fail
    # outside the main thread and can be swallowed. The reward runner has a hard limit.
    return not record.getMessage().startswith("Timeout is disabled")


def _parse(text: str) -> list[Any]:
    """What math-verify reads: a sympy object first, if it understood, then the plain text."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    # Unanchored numbers don't count, else the last number of any prose would be an answer.
    targets = (
        LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=0),
        ExprExtractionConfig(try_extract_without_anchor=False),
    )
    parsed: list[Any] = parse(text, extraction_config=targets, parsing_timeout=None)
    return parsed


def _parse_answer(answer: str) -> list[Any]:
    answer = answer.strip()
    styled = _STYLED_NUMBER.fullmatch(answer)
    if styled:
        answer = styled[1]
    answer = answer.removesuffix(".")  # math-verify reads "5." as something else than 5
    return _parse(rf"\boxed{{{answer}}}")


@lru_cache(maxsize=1024)  # the completions of a group share their reference
def _parse_reference(text: str) -> list[Any]:
    boxed = last_boxed(text)
    answer = text.rpartition(_MARK)[2].strip() if boxed is None else boxed.strip()
    delimited = _MATH_DELIMITERS.fullmatch(answer)
    if delimited:
        answer = next(group for group in delimited.groups() if group is not None)
    if _WORDS.fullmatch(answer):
        answer = rf"\text{{{answer}}}"  # else a product of letters, which equals any anagram
    parsed = _parse_answer(answer)
    if not parsed or isinstance(parsed[0], str):
        raise ValueError(
            f"math-verify can't parse the reference answer {text!r:.200}; correct or drop the row, "
            "compare such rows as text with MathReward(unreadable='as_text'), or all of them with "
            "boxed_match_reward"
        )
    return parsed


def _read_answer(answer: object) -> list[Any] | None:
    text = reference_text(answer)
    return None if text is None else _parse_reference(text)


def _read_solution(solution: object) -> list[Any] | None:
    text = reference_text(solution)
    if text is None:
        return None
    boxed = last_boxed(text)
    if boxed is None:
        raise ValueError(
            rf"the solution '…{text[-100:]}' has no \boxed{{…}}; map the column with the final "
            "answers to 'answer'"
        )
    return _parse_reference(rf"\boxed{{{boxed}}}")


def _check_references(columns: Columns) -> None:
    """Check the references, of large sets 2,000 evenly spread ones."""
    name = "answer" if "answer" in columns else "solution"
    if name not in columns:
        raise ValueError(
            f"it needs the column 'answer' or 'solution'; the data set has {sorted(columns)}; map "
            "it with data.columns"
        )
    _check_column(name, columns[name], _read_answer if name == "answer" else _read_solution)


def _check_column(name: str, values: Sequence[object], read: Callable[[object], object]) -> None:
    stride = -(-len(values) // _MOST_CHECKED) or 1
    checked = [value if row % stride == 0 else None for row, value in enumerate(values)]
    check_rows(name, checked, read)


def _judge(completion: str, reference: list[Any]) -> float:
    from math_verify import verify

    boxed = last_boxed(completion)
    found = _parse(completion) if boxed is None else _parse_answer(boxed)
    return float(verify(reference, found, timeout_seconds=None))


@reward_traits(per_completion=True, check_references=_check_references, warm_up=_warm_up)
def math_reward(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]],
    answer: Sequence[object] | None = None,
    solution: Sequence[object] | None = None,
    **columns: object,
) -> list[float | None]:
    r"""1.0 if math-verify finds the completion's answer equal to the reference, else 0.0.

    The answer is the content of the completion's last ``\boxed{…}``; without a box, what follows
    words such as "final answer is". It has no time limit of its own: sympy may compute for hours
    on ``\boxed{9^{9^{9^9}}}``, so run it in a ``RewardRunner``.

    Args:
        prompts: not looked at.
        completions: plain or conversational completions.
        completion_ids: not looked at.
        answer: references, plain or LaTeX, strings or numbers; of a text with ``\boxed{…}`` its
            last box, else what follows a ``####``. It goes before ``solution``.
        solution: worked solutions, whose last ``\boxed{…}`` is the reference.
        columns: not looked at.

    Returns:
        A reward for each completion; None where the reference is None.

    Raises:
        ValueError: without ``answer`` and ``solution``, for a solution without a box, and for a
            reference that math-verify can't parse: an unreadable reference never counts as right.
    """
    _warm_up()
    references = solution if answer is None else answer
    if references is None:
        raise ValueError("math_reward needs the column 'answer' or 'solution'")
    read = _read_solution if answer is None else _read_answer
    rewards: list[float | None] = []
    for completion, value in zip(completions, references, strict=True):
        reference = read(value)
        text = completion_text(completion)
        rewards.append(None if reference is None else _judge(text, reference))
    return rewards


class MathReward:
    """:func:`math_reward` for published benchmarks, of which some references are hard to read.

    Args:
        unreadable: what becomes of a reference that math-verify can't parse. "refuse" is an error,
            as in ``math_reward``; with "as_text" the completion's last box has to equal it as text
            (:func:`~lgrpo_lightning.rewards.normal_form`). Of Minerva's 272 references these are 7,
            of OlympiadBench's 675 they are 3.

    Raises:
        ValueError: for another value of ``unreadable``.
    """

    per_completion = True

    def __init__(self, unreadable: Unreadable = "refuse") -> None:
        if unreadable not in get_args(Unreadable):
            raise ValueError(
                f"unreadable must be one of {get_args(Unreadable)}, got {unreadable!r}"
            )
        self.unreadable = unreadable

    def warm_up(self) -> None:
        """Import math-verify."""
        _warm_up()

    def check_references(self, columns: Columns) -> None:
        """Check the references, of large sets 2,000 evenly spread ones."""
        _check_column("answer", columns["answer"], self._read)

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]],
        answer: Sequence[object],
        **columns: object,
    ) -> list[float | None]:
        """Score the completions' texts against ``answer``; nothing else is looked at.

        A list of one reference, as OlympiadBench's ``final_answer``, counts as its entry.
        """
        return [
            self._score(completion_text(completion), reference)
            for completion, reference in zip(completions, answer, strict=True)
        ]

    def _score(self, completion: str, reference: object) -> float | None:
        read = self._read(reference)
        if read is None:
            return None
        if isinstance(read, list):
            return _judge(completion, read)
        boxed = last_boxed(completion)
        return float(boxed is not None and normal_form(boxed) == normal_form(read))

    def _read(self, reference: object) -> list[Any] | str | None:
        """What math-verify makes of it, or the text to compare with."""
        single = reference[0] if isinstance(reference, list) and len(reference) == 1 else reference
        text = reference_text(single)
        if text is None:
            return None
        try:
            return _parse_reference(text)
        except ValueError:
            if self.unreadable == "refuse":
                raise
        boxed = last_boxed(text)
        return text if boxed is None else boxed
