"""The task: write the letters of a word in order."""

import random

from torch.utils.data import Dataset

LETTERS = "abcd"
END = "."
TOKENS = [END, "=", *LETTERS]
WORD_LENGTH = 4
MAX_TOKENS = WORD_LENGTH + 1  # the letters and the end


class Words(Dataset[str]):
    """Random words."""

    def __init__(self, number: int, seed: int) -> None:
        draw = random.Random(seed)
        self.words = ["".join(draw.choices(LETTERS, k=WORD_LENGTH)) for _ in range(number)]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> str:
        return self.words[index]


def encode(text: str) -> list[int]:
    """Return the token ids of a text, one per character."""
    return [TOKENS.index(character) for character in text]


def decode(ids: list[int]) -> list[str]:
    """Return the text of each token."""
    return [TOKENS[token] for token in ids]


def reward(word: str, completion: str) -> float:
    """Return the share of positions, the end included, that are right."""
    right = "".join(sorted(word)) + END
    return sum(a == b for a, b in zip(right, completion, strict=False)) / len(right)
