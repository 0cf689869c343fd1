"""What a sampler returns."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Completions:
    """Sampled completions of B prompts, G each.

    Legend: B prompts, G completions of a group, T tokens of the longest one.

    Attributes:
        ids: [B, G, T] long, right-padded.
        mask: [B, G, T] bool, the sampled tokens, the end-of-sequence token included.
        logprobs: [B, G, T] float32, log-probs of the tokens under the temperature-scaled
            distribution over the allowed tokens, as the sampler computed them; 0 at padding.
        finished: [B, G] bool, the completion ended by itself; False where it was truncated.
    """

    ids: Tensor
    mask: Tensor
    logprobs: Tensor
    finished: Tensor

    @property
    def lengths(self) -> Tensor:
        """[B, G] long, tokens of each completion."""
        return self.mask.sum(-1)
