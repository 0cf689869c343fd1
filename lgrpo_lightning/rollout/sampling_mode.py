"""The policy's state while it is sampled from."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import GenerationConfig

from lgrpo_lightning.policy.compiled_blocks import uncompiled
from lgrpo_lightning.policy.support import causal_lm


@contextmanager
def sampling_mode(policy: nn.Module) -> Iterator[None]:
    """No dropout, and no trace of the model's own generation config, while the context is open.

    ``generate`` fills every setting it was not given from the model's generation config; an empty
    one in its place keeps, say, a released repetition penalty out of the policy's distribution.
    Afterwards every module is in the mode it was in, also where parts of the policy differ.
    """
    owner = causal_lm(policy)
    released = owner.generation_config
    modes = [(module, module.training) for module in policy.modules()]
    owner.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    policy.eval()
    try:
        with uncompiled(policy):
            yield
    finally:
        owner.generation_config = released
        for module, training in modes:
            module.training = training
