"""What finds the answers of completions: a function that the user names."""

from collections.abc import Callable, Sequence

from lgrpo_lightning.rewards.runner.loading import LoadError, find

Extract = Callable[[str], str | None]
ExtractorLike = str | Extract | None


def load_extractor(extractor: ExtractorLike) -> Extract | None:
    """The function that gives the answer of one completion, or None for none.

    Args:
        extractor: its dotted path, or ``file.py:name``; in Python also the function itself. None
            where answers are not wanted.

    Raises:
        ValueError: naming the path, if there is no function.
    """
    if not isinstance(extractor, str):
        return extractor
    try:
        found = find(extractor)
    except LoadError as error:
        raise ValueError(f"answer_extractor {extractor!r}: {error}") from None
    if not callable(found):
        raise ValueError(
            f"answer_extractor {extractor!r} is a {type(found).__name__}, which can't be called"
        )
    return found  # type: ignore[no-any-return]


def extract_answers(
    extract: Extract, completions: Sequence[Sequence[str]]
) -> list[list[str | None]]:
    """The answers of n completions for each of B prompts, B × n; None for no answer.

    Raises:
        ValueError: naming the function, if it returns anything but a text or None.
    """
    answers = [[extract(completion) for completion in row] for row in completions]
    for answer in (answer for row in answers for answer in row):
        if answer is not None and not isinstance(answer, str):
            name = getattr(extract, "__name__", type(extract).__name__)
            raise ValueError(
                f"answer_extractor {name!r} must return a text, or None for no answer; it returned "
                f"{answer!r:.100}"
            )
    return answers
