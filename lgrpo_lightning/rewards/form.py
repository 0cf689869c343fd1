"""Reward for the form of a completion, not its content."""

import re
from collections.abc import Sequence
from typing import Literal, get_args

from lgrpo_lightning.rewards.completion import Completion, Prompt, completion_text

Mode = Literal["fullmatch", "search"]
_FLAGS = ("ASCII", "DOTALL", "IGNORECASE", "MULTILINE", "VERBOSE")


class FormatReward:
    r"""1.0 if the completion matches a regular expression, else 0.0.

    Args:
        pattern: regular expression in Python's syntax.
        flags: names of ``re`` flags: ASCII, DOTALL, IGNORECASE, MULTILINE, VERBOSE. Completions
            have line breaks, which ``.`` matches only with DOTALL.
        mode: "fullmatch" if the pattern must describe the whole completion, "search" if it may
            occur anywhere in it.

    Raises:
        ValueError: for a pattern that doesn't compile, an unknown flag or mode.

    Example::

        FormatReward(r"<think>.+</think>\s*\\boxed\{.+\}\s*", flags=["DOTALL"])
    """

    per_completion = True

    def __init__(self, pattern: str, flags: Sequence[str] = (), mode: Mode = "fullmatch") -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be 'fullmatch' or 'search', got {mode!r}")
        if isinstance(flags, str):
            raise ValueError(f"flags must be a list of names such as ['DOTALL'], got {flags!r}")
        unknown = [flag for flag in flags if flag not in _FLAGS]
        if unknown:
            raise ValueError(f"unknown flags {unknown}; known are {list(_FLAGS)}")
        combined = re.RegexFlag(0)
        for flag in flags:
            combined |= re.RegexFlag[flag]
        try:
            self.pattern = re.compile(pattern, combined)
        except re.error as error:
            raise ValueError(f"the pattern {pattern!r} does not compile: {error}") from None
        self.mode = mode

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]],
        **columns: object,
    ) -> list[float]:
        """Score the completions' texts; nothing else is looked at."""
        match = self.pattern.fullmatch if self.mode == "fullmatch" else self.pattern.search
        return [float(match(completion_text(c)) is not None) for c in completions]
