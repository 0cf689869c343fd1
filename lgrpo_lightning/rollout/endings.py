"""Where completions end: end tokens and stop strings."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StopStringCriteria

# An id beyond every vocabulary: it matches no end token and no part of a stop string.
NO_TOKEN = torch.iinfo(torch.int64).max


class Endings:
    """Tells which completions have just ended.

    Args:
        end_tokens: ids that end a completion.
        stop: strings that end it.
        tokenizer: the policy's.
        device: of the tokens.

    Attributes:
        tail: how many of the last tokens have to be known, the newest included.
    """

    def __init__(
        self,
        end_tokens: Sequence[int],
        stop: list[str],
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
    ) -> None:
        self.end_tokens = torch.tensor(end_tokens, device=device)
        self.strings = StopStringCriteria(tokenizer, stop) if stop else None
        self.tail = 1 if self.strings is None else max(1, self.strings.maximum_token_len)

    def reached(self, tails: Tensor) -> Tensor:
        """Whether the last token of each row ends it.

        Args:
            tails: [n, k] long, the last sampled tokens, right-aligned; at least ``tail`` where
                there are so many, and :data:`NO_TOKEN` before the first. No token of the prompt:
                a stop string in there ends nothing.

        Returns:
            [n] bool.
        """
        ends = self._is_end(tails[:, -1])
        if self.strings is not None:
            ends = ends | self.strings(tails, None)
        return ends

    def ended(self, tokens: Tensor, ids: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """Whether newly drawn tokens end their rows.

        Args:
            tokens: [n] long, drawn last.
            ids: [R, T] long, all completions, the new tokens included.
            rows: [n] long, whose tokens they are.
            lengths: [n] long, tokens of these rows so far.

        Returns:
            [n] bool.
        """
        if self.strings is None:
            return self._is_end(tokens)
        back = torch.arange(1 - self.tail, 1, device=ids.device)
        at = lengths.unsqueeze(1) - 1 + back
        tails = ids[rows.unsqueeze(1), at.clamp(min=0)]
        return self.reached(tails.masked_fill(at < 0, NO_TOKEN))

    def _is_end(self, tokens: Tensor) -> Tensor:
        # torch.isin may sort, for which a GPU has to wait for the CPU.
        return (tokens.unsqueeze(1) == self.end_tokens).any(1)
