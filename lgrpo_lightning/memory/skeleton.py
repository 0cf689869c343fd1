"""A policy without memory for its weights, and what its blocks keep for the backward pass."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from lgrpo_lightning.policy import PolicySettings
from lgrpo_lightning.policy.blocks import blocks_of
from lgrpo_lightning.policy.loading import add_lora, disable_dropout
from lgrpo_lightning.policy.support import causal_lm

ATTENTION = "memory_skeleton"
TOKENS = (64, 128)  # of two passes, whose difference is what a token takes


@dataclass(frozen=True)
class Kept:
    """Bytes that a forward pass keeps for the backward pass.

    Attributes:
        per_token: of all blocks.
        per_token_of_a_block: of the last block.
        casts: of weights cast to the type of mixed precision.
    """

    per_token: float
    per_token_of_a_block: float
    casts: float


@dataclass(frozen=True)
class Skeleton:
    """The shape of a policy; weights are counted one by one.

    Attributes:
        text: the configuration of the language model.
        trained: weights that are trained.
        frozen: weights that are not.
        largest: weights of the largest tensor that is trained.
        in_blocks: weights in blocks.
        in_linears: weights of linear layers in blocks, without adapters.
        kept: see :class:`Kept`.
    """

    text: Any
    trained: int
    frozen: int
    largest: int
    in_blocks: int
    in_linears: int
    kept: Kept

    @property
    def layers(self) -> int:
        """Blocks."""
        return int(self.text.num_hidden_layers)

    @property
    def heads(self) -> tuple[int, int, int]:
        """H attention heads, K key-value heads, E the size of each."""
        heads = int(self.text.num_attention_heads)
        size = getattr(self.text, "head_dim", None) or self.text.hidden_size // heads
        return heads, int(getattr(self.text, "num_key_value_heads", None) or heads), int(size)


def skeleton(settings: PolicySettings, precision: str) -> Skeleton:
    """Build the shape of a policy from its configuration, which a hub name is enough for.

    Raises:
        ValueError: if there is no such model.
    """
    config = settings.load_config()
    text: Any = config.get_text_config()
    whole = _build(config, settings, text.num_hidden_layers)
    blocks = blocks_of(whole)
    trained = [weight.numel() for weight in whole.parameters() if weight.requires_grad]
    linears = [
        weight.numel()
        for block in blocks
        for name, weight in block.named_parameters()
        if weight.dim() == 2 and "lora_" not in name
    ]
    return Skeleton(
        text=text,
        trained=sum(trained),
        frozen=sum(weight.numel() for weight in whole.parameters() if not weight.requires_grad),
        largest=max(trained),
        in_blocks=sum(weight.numel() for block in blocks for weight in block.parameters()),
        in_linears=sum(linears),
        kept=_kept(config, settings, precision),
    )


def _kept(config: PretrainedConfig, settings: PolicySettings, precision: str) -> Kept:
    """What models of one and of two blocks keep, continued to all blocks.

    The first block of a frozen model keeps less than the others: its input has no gradient.
    """
    few, many = TOKENS
    totals = [_kept_bytes(_build(config, settings, count), precision) for count in (1, 2)]
    slopes = [(most - least) / (many - few) for least, most in totals]
    fixed = [total[0] - slope * few for total, slope in zip(totals, slopes, strict=True)]
    others: int = config.get_text_config().num_hidden_layers - 1
    block = slopes[1] - slopes[0]
    return Kept(
        per_token=slopes[0] + others * block,
        per_token_of_a_block=block,
        # In other precisions it is the weights themselves that are kept.
        casts=fixed[0] + others * (fixed[1] - fixed[0]) if precision.endswith("mixed") else 0.0,
    )


def _build(config: PretrainedConfig, settings: PolicySettings, layers: int) -> nn.Module:
    """The policy with that many layers; its weights are fake, an adapter's are not."""
    config = copy.deepcopy(config)
    text: Any = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    dtype = torch.float32 if settings.dtype == "auto" else getattr(torch, settings.dtype)
    with FakeTensorMode():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation=ATTENTION
        )
    if settings.disable_dropout:
        disable_dropout(model)
    return (model if settings.lora is None else add_lora(model, settings.lora)).train()


def _kept_bytes(model: nn.Module, precision: str) -> tuple[float, float]:
    """Bytes kept by passes over rows of ``TOKENS`` tokens."""
    base = causal_lm(model).base_model
    found = []
    for count in TOKENS:
        with _counted() as kept, FakeTensorMode(allow_non_fake_inputs=True):
            ids = torch.zeros(1, count, dtype=torch.long)
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)  # taken for a finished one
            with torch.autocast("cpu", torch.bfloat16, enabled=precision.endswith("mixed")):
                base(input_ids=ids, attention_mask=mask, use_cache=False)
        found.append(float(sum(kept.values())))
    return found[0], found[1]


@contextmanager
def _counted() -> Iterator[dict[int, int]]:
    """Storage → bytes of what is saved for backward while the context is open."""
    kept: dict[int, int] = {}
    alive = []  # so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive.append(storage)
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


class _Attention(torch.autograd.Function):
    """Keeps what fused attention keeps: queries, keys, values, outputs, a number per row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ANN401
        rows, heads, length, _ = query.shape
        output = query.new_empty(rows, length, heads, value.shape[3])
        sums = query.new_empty(rows, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        return output


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *others: object,
    **settings: object,
) -> tuple[Tensor, None]:
    output: Tensor = _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return output, None


AttentionInterface.register(ATTENTION, _attention)
