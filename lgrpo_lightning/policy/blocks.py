"""The blocks that a model is made of."""

from torch import nn

from lgrpo_lightning.policy.support import causal_lm


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model, as transformers names them for splitting models over devices.

    Raises:
        ValueError: if the model does not name them.
    """
    base = causal_lm(model)
    names = set(base._no_split_modules or ())
    blocks = [module for module in base.modules() if type(module).__name__ in names]
    if not blocks:
        raise ValueError(
            f"{type(base).__name__} does not tell which of its modules are blocks "
            "(_no_split_modules), which sharding (strategy fsdp2), reference_device: cpu and "
            "compile need; leave them out"
        )
    return blocks
