"""How a model of transformers comes to attend over a tree.

A pass over packed trees hands the tree to the model as an extra keyword argument, which
transformers' models pass on to their attention functions. A pair of hooks on every attention module
switches to the function registered here while such an argument is there, and back after it, so that
every other pass, `generate` included, runs on the model's own implementation. The hooks sit inside
of what gradient checkpointing computes again; a switch around the whole pass would be undone by
then.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from lgrpo_lightning.policy.path_attention import Scoring
from lgrpo_lightning.policy.support import REMEDY, causal_lm

IMPLEMENTATION = "process_tree"
ARGUMENT = "process_tree"


class TreeAttention(Protocol):
    """Attention over the rows of one packed batch."""

    calls: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """[R, H, L, E] to [R, L, H, E']."""


def tree_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,  # noqa: ANN401 - whatever the model hands to its attention functions
) -> tuple[Tensor, None]:
    """The function behind :data:`IMPLEMENTATION`, as transformers calls it."""
    tree: TreeAttention = kwargs[ARGUMENT]
    scoring = Scoring(scaling, sliding_window, softcap, dropout)
    attended = tree.attend(query, key, value, scoring)
    return attended.contiguous(), None


AttentionInterface.register(IMPLEMENTATION, tree_attention_forward)


def install(model: nn.Module) -> None:
    """Put the hooks on a model's attention modules, once.

    Raises:
        ValueError: if the model's attention modules cannot be told.
    """
    base = causal_lm(model)
    modules = [module for module in base.modules() if type(module).__name__.endswith("Attention")]
    layers = base.config.get_text_config().num_hidden_layers
    if len(modules) != layers:
        raise ValueError(
            f"the tree engine found {len(modules)} attention modules in {type(base).__name__} of "
            f"{layers} layers; {REMEDY}"
        )
    for module in modules:
        if ORIGINAL not in module.__dict__:
            setattr(module, ORIGINAL, None)
            module.register_forward_pre_hook(_enter, with_kwargs=True)
            module.register_forward_hook(_leave, always_call=True)


# The attribute in which a module keeps its own implementation's name during a pass over trees. It
# also marks the modules that have the hooks, and is copied along with them.
ORIGINAL = "_implementation_without_tree"


def check_reached(model: nn.Module, attention: TreeAttention) -> None:
    """Make sure that a pass went through the tree attention in every layer.

    Raises:
        ValueError: if the model does not hand the tree on to its attention functions; its scores
            are then those of tokens that saw what they should not.
    """
    base = causal_lm(model)
    layers = base.config.get_text_config().num_hidden_layers
    if attention.calls == 0 or attention.calls % layers:  # a pass may have had to be repeated
        raise ValueError(
            f"{type(base).__name__} called the tree attention {attention.calls} times with "
            f"{layers} layers, so its attention cannot be replaced; {REMEDY}"
        )


def _enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if ARGUMENT in kwargs:
        config: Any = module.config
        setattr(module, ORIGINAL, config._attn_implementation)
        config._attn_implementation = IMPLEMENTATION


def _leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
    original = getattr(module, ORIGINAL)
    if original is not None:
        config: Any = module.config
        config._attn_implementation = original
        setattr(module, ORIGINAL, None)


def no_mask(device: torch.device) -> Tensor:
    """A mask that transformers takes for a finished one, and builds none of its own."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
