"""The tokens of completions as text, decoded only when somebody looks."""

from collections.abc import Iterator

from torch import Tensor
from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"  # what the first bytes of a character decode to


class TokenTexts:
    """Of each of M completions, a list of its tokens' text pieces.

    Joined, the pieces of a completion are its text, special tokens included. A piece is what the
    token adds to the tokens before it: tokenizers mark spaces at the beginning of a token, and
    decode a token by itself without. Where several tokens make up one character, the last has it.

    Deliberately no ``collections.abc.Sequence``: helpers that walk through step outputs, to move
    tensors for example, would decode everything.

    Args:
        ids: [M, T] long, right-padded.
        mask: [M, T] bool, the real tokens.
        tokenizer: that made them.
    """

    def __init__(self, ids: Tensor, mask: Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
        self._ids = ids
        self._mask = mask
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> list[str]:
        ids = self._ids[index, : int(self._mask[index].sum())].tolist()
        return list(_pieces(ids, self._tokenizer))


def _pieces(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    def decode(start: int, end: int) -> str:
        return str(
            tokenizer.decode(
                ids[start:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    # From `context` to `told` lie the tokens of the last piece: enough for the next to come out as
    # it does in the whole text, and never more than a few to decode again.
    context = told = 0
    for end in range(1, len(ids) + 1):
        before, text = decode(context, told), decode(context, end)
        if text.endswith(_UNFINISHED) and end < len(ids):
            yield ""
            continue
        yield text[len(before) :]
        context, told = told, end
