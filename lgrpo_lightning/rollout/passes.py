"""The two passes of the policy that sampling consists of: over prompts, and over newest tokens.

Legend: q prompts, P prompt tokens, n rows, V vocabulary, K key-value heads, E head size.
"""

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lgrpo_lightning.policy.support import causal_lm
from lgrpo_lightning.rollout.shared_attention import ARGUMENT, SharedPrefixAttention


def prompt_pass(
    policy: nn.Module, ids: Tensor, mask: Tensor
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Run prompts.

    Args:
        policy: the model.
        ids: [q, P] long, left-padded.
        mask: [q, P] bool.

    Returns:
        Keys and values [q, K, P, E] of every layer, and the logits [q, V] of the first tokens.
    """
    cache = DynamicCache()
    output = policy(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=(mask.long().cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    states = []
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer), type(layer)
        assert layer.keys is not None and layer.values is not None  # noqa: PT018 - one fact
        states.append((layer.keys, layer.values))
    return states, output.logits[:, -1]


class TokenPass:
    """Runs one token of each row, with the policy's attention replaced.

    Args:
        policy: the model.
        device: where it is.
    """

    def __init__(self, policy: nn.Module, device: torch.device) -> None:
        self.policy = policy
        self.num_layers = causal_lm(policy).config.get_text_config().num_hidden_layers
        # A finished mask of four dimensions: the model builds none of its own.
        self.no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)

    def __call__(
        self, tokens: Tensor, positions: Tensor, attention: SharedPrefixAttention
    ) -> Tensor:
        """Run the newest tokens.

        Args:
            tokens: [n] long.
            positions: [n] long, from the beginning of the prompt.
            attention: holds what was run before, and takes in these tokens.

        Returns:
            The logits [n, V] of the next tokens.

        Raises:
            ValueError: if the model does not leave its attention to it.
        """
        output = self.policy(
            input_ids=tokens.unsqueeze(1),
            position_ids=positions.unsqueeze(1),
            attention_mask=self.no_mask,
            use_cache=False,
            **{ARGUMENT: attention},
        )
        if attention.calls != self.num_layers:
            raise ValueError(
                f"{type(causal_lm(self.policy)).__name__} called the shared-prefix attention "
                f"{attention.calls} times with {self.num_layers} layers, so its attention cannot "
                "be replaced; use sampler: hf"
            )
        logits: Tensor = output.logits[:, -1]
        return logits
