"""Rewards for an answer that equals the reference as a string."""

from collections.abc import Sequence

from lgrpo_lightning.rewards.boxed import last_boxed
from lgrpo_lightning.rewards.completion import Completion, Prompt, completion_text
from lgrpo_lightning.rewards.reference import check_rows, reference_text
from lgrpo_lightning.rewards.traits import Columns, reward_traits


def _check_answers(columns: Columns) -> None:
    check_rows("answer", columns["answer"], reference_text)


def _equals(found: str | None, reference: object) -> float | None:
    expected = reference_text(reference)
    if expected is None:
        return None
    return float(found is not None and found.strip() == expected)


@reward_traits(per_completion=True, check_references=_check_answers)
def exact_match_reward(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]],
    answer: Sequence[object],
    **columns: object,
) -> list[float | None]:
    """1.0 if the stripped completion is the stripped reference, letter by letter, else 0.0.

    Args:
        prompts: not looked at.
        completions: plain or conversational completions.
        completion_ids: not looked at.
        answer: references; numbers are compared in their shortest form (27.0 as ``27``).
        columns: not looked at.

    Returns:
        A reward for each completion; None where the reference is None.

    Raises:
        ValueError: for a reference that is neither text nor a finite number.
    """
    return [
        _equals(completion_text(completion), reference)
        for completion, reference in zip(completions, answer, strict=True)
    ]


@reward_traits(per_completion=True, check_references=_check_answers)
def boxed_match_reward(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]],
    answer: Sequence[object],
    **columns: object,
) -> list[float | None]:
    r"""1.0 if the completion's last ``\boxed{…}`` holds exactly the reference, else 0.0.

    A string comparison after stripping: ``\boxed{033}`` is not 33. For that see ``math_reward``.

    Args:
        prompts: not looked at.
        completions: plain or conversational completions.
        completion_ids: not looked at.
        answer: references; numbers are compared in their shortest form (27.0 as ``27``).
        columns: not looked at.

    Returns:
        A reward for each completion; None where the reference is None.

    Raises:
        ValueError: for a reference that is neither text nor a finite number.
    """
    return [
        _equals(last_boxed(completion_text(completion)), reference)
        for completion, reference in zip(completions, answer, strict=True)
    ]
