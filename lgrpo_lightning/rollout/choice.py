"""Choosing a sampler by name."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lgrpo_lightning.policy.support import causal_lm
from lgrpo_lightning.rollout.huggingface import HuggingFaceSampler
from lgrpo_lightning.rollout.sampler import Sampler
from lgrpo_lightning.rollout.shared_prefix import SharedPrefixSampler, Way
from lgrpo_lightning.rollout.support import why_not_shared_prefix
from lgrpo_lightning.rollout.vllm import VLLMSampler
from lgrpo_lightning.rollout.vllm_colocated import check_installed, check_sleep
from lgrpo_lightning.rollout.vllm_settings import VLLMSettings

SamplerName = Literal["auto", "shared_prefix", "shared_prefix_graphs", "hf", "vllm"]
_VLLM = VLLMSettings()


def check_sampler(name: str, vllm: VLLMSettings = _VLLM) -> None:
    """Refuse a name that is none, before anything is loaded.

    Raises:
        ValueError: if there is no such sampler, what it needs is not there, or settings were given
            for a sampler that was not asked for.
    """
    if name not in get_args(SamplerName):
        raise ValueError(f"sampler must be one of {get_args(SamplerName)}, got {name!r}")
    if name != "vllm" and vllm != _VLLM:
        raise ValueError(f"vllm: {vllm} is for sampler: vllm, but sampler is {name!r}")
    if name == "vllm" and vllm.mode == "colocate":
        check_installed()
    if name == "shared_prefix_graphs" and not torch.cuda.is_available():
        raise ValueError(f"sampler: {name} needs a CUDA device; use sampler: shared_prefix")


def make_sampler(
    name: SamplerName,
    policy: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    end_tokens: Sequence[int],
    batch_size: int | None = None,
    vllm: VLLMSettings = _VLLM,
) -> tuple[Sampler, str]:
    """The sampler of that name for a policy, and which it is and why, for the start of a run.

    Args:
        name: ``"shared_prefix"``, ``"hf"`` (transformers' ``generate``), ``"vllm"``, or ``"auto"``
            for the first of them that can serve the policy; ``"shared_prefix_graphs"`` decodes by
            CUDA graphs.
        policy: a causal language model of transformers, or a peft model around one.
        tokenizer: the policy's.
        end_tokens: ids that end a completion.
        batch_size: completions sampled at a time; None for all of a call.
        vllm: settings of ``"vllm"``.

    Raises:
        ValueError: if there is no such sampler, or it cannot serve the policy.
    """
    check_sampler(name, vllm)
    device = causal_lm(policy).device
    if name == "shared_prefix_graphs" and device.type != "cuda":
        raise ValueError(f"sampler: {name} needs a policy on CUDA, and it is on {device.type}")
    if name == "hf":
        return HuggingFaceSampler(tokenizer, end_tokens, batch_size), "hf: it was asked for"
    if name == "vllm":
        check_sleep(vllm, device)
        where = "in this process" if vllm.mode == "colocate" else f"on {', '.join(vllm.urls)}"
        return (
            VLLMSampler(tokenizer, end_tokens, batch_size, vllm),
            f"vllm: it was asked for; {where}, with the policy's weights copied for every rollout",
        )
    reason = why_not_shared_prefix(policy)
    if reason is None:
        graphs = name == "shared_prefix_graphs"
        way: Way = "graphs" if graphs else "rows"
        what = "shared_prefix: every prompt is run once, and ended completions leave the batch"
        if graphs:
            what = "shared_prefix_graphs: it was asked for, and has not yet been run on a GPU"
        return SharedPrefixSampler(tokenizer, end_tokens, batch_size, way), what
    message = f"the shared-prefix sampler cannot run this model: {reason}"
    if name != "auto":
        raise ValueError(f"{message}; use sampler: hf")
    return HuggingFaceSampler(tokenizer, end_tokens, batch_size), f"hf: {message}"
