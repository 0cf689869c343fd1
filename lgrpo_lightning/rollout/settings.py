"""How completions are drawn from the policy."""

from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase


@dataclass
class SamplingSettings:
    """The distribution completions come from, and where they end.

    The log-probs of the update are those of the temperature-scaled distribution over the allowed
    tokens. top_p, top_k and min_p only limit what is drawn from it; with them the samples are no
    longer exactly the policy's, as in every trainer that offers them.

    Args:
        max_new_tokens: longest completion, in tokens, the end-of-sequence token included.
        temperature: logits are divided by it; 0 takes the most likely token (evaluation only).
        top_p: draw from the smallest set of tokens with this probability; 1 for all.
        top_k: draw from the k most likely tokens; 0 for all.
        min_p: drop tokens less likely than this share of the most likely one; 0 for none.
        stop: strings that end a completion, which keeps the tokens of the string itself.
        allowed_tokens: the only tokens the policy may use, as strings of one token or as ids; None
            for the whole vocabulary. The end-of-sequence token has to be among them to be used.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: list[str] = field(default_factory=list)
    allowed_tokens: list[int | str] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}; 1 switches it off")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 or more, got {self.top_k}; 0 switches it off")
        if not 0 <= self.min_p < 1:
            raise ValueError(f"min_p must be in [0, 1), got {self.min_p}; 0 switches it off")
        if any(not string for string in self.stop):
            raise ValueError("stop holds an empty string, which every completion contains")

    def allowed_ids(self, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
        """The ids of ``allowed_tokens``, sorted; None for the whole vocabulary.

        Raises:
            ValueError: if one is no token of this tokenizer, or there is none.
        """
        if self.allowed_tokens is None:
            return None
        ids = {_token_id(token, tokenizer) for token in self.allowed_tokens}
        if not ids:
            raise ValueError("allowed_tokens is empty; leave it out to allow every token")
        return sorted(ids)


def _token_id(token: int | str, tokenizer: PreTrainedTokenizerBase) -> int:
    if isinstance(token, int):
        if not 0 <= token < len(tokenizer):
            raise ValueError(f"allowed_tokens: {token} is no id below {len(tokenizer)}")
        return token
    known = tokenizer.get_vocab().get(token)
    ids = [known] if known is not None else tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(
            f"allowed_tokens: {token!r} is {len(ids)} tokens of this tokenizer, not one; "
            "give the tokens one by one or as ids"
        )
    return int(ids[0])
