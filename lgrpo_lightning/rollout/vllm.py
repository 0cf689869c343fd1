"""Sampling with vLLM: an engine of its own in this process, with a copy of the policy's weights.

Legend: B prompts, G completions of a group, R = B·G rows, T tokens of the longest completion.
"""

import copy
import importlib.util
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lgrpo_lightning.policy.support import causal_lm
from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.rollout.seeds import derive_seed, seeded
from lgrpo_lightning.rollout.settings import SamplingSettings


class VLLMSampler:
    """Draws completions with a vLLM engine, started by the first call.

    Before every call the policy's weights are copied into the engine, a LoRA adapter merged into
    them, so that it never samples from an older policy. Its log-probs are those it drew from: with
    temperature and allowed tokens, but also with top-k, top-p and min-p, where those are used.

    Args:
        tokenizer: the policy's.
        end_tokens: ids that end a completion.
        batch_size: completions sampled at a time, at most; None for vLLM's own limit.
        memory: share of the GPU's memory that the engine takes.

    Raises:
        ValueError: if vLLM is not installed, there is no end token, or a number is out of range.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end_tokens: Sequence[int],
        batch_size: int | None = None,
        memory: float = 0.3,
    ) -> None:
        check_installed()
        if not end_tokens:
            raise ValueError("end_tokens is empty, so no completion would ever end")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"the sampler's batch_size must be at least 1, got {batch_size}")
        if not 0 < memory <= 1:
            raise ValueError(f"the engine's share of memory must be in (0, 1], got {memory}")
        self.tokenizer = tokenizer
        self.end_tokens = list(end_tokens)
        self.batch_size = batch_size
        self.memory = memory
        self._engine: Any = None

    @torch.no_grad()
    def sample(
        self,
        policy: nn.Module,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        group_size: int,
        settings: SamplingSettings,
        seed: int,
    ) -> Completions:
        """Draw ``group_size`` completions for each prompt, see :class:`Sampler`.

        Raises:
            ValueError: if the run has more than one process.
        """
        self.sync(policy)
        prompts = [
            {"prompt_token_ids": ids[mask].tolist()}
            for ids, mask in zip(prompt_ids, prompt_mask.bool(), strict=True)
            for _ in range(group_size)
        ]
        outputs = self._engine.generate(
            prompts,
            [self._parameters(settings, derive_seed(seed, row)) for row in range(len(prompts))],
            use_tqdm=False,
        )
        rows = [output.outputs[0] for output in outputs]
        shape = (len(prompt_ids), group_size, max(len(row.token_ids) for row in rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(rows), shape[2]), self.end_tokens[0] if pad is None else int(pad))
        logprobs = torch.zeros(ids.shape, dtype=torch.float32)
        for number, row in enumerate(rows):
            length = len(row.token_ids)
            ids[number, :length] = torch.tensor(row.token_ids)
            logprobs[number, :length] = torch.tensor(
                [
                    step[token].logprob
                    for token, step in zip(row.token_ids, row.logprobs, strict=True)
                ]
            )
        mask = torch.arange(shape[2]) < torch.tensor([[len(row.token_ids)] for row in rows])
        finished = torch.tensor([row.finish_reason == "stop" for row in rows])
        device = prompt_ids.device
        return Completions(
            ids=ids.view(shape).to(device),
            mask=mask.view(shape).to(device),
            logprobs=logprobs.view(shape).to(device),
            finished=finished.view(shape[:2]).to(device),
        )

    def sync(self, policy: nn.Module) -> None:
        """Copy the policy's weights into the engine, which is started if need be.

        Raises:
            ValueError: if the run has more than one process.
        """
        if self._engine is None:
            state = random.getstate()
            with seeded(0, causal_lm(policy).device):  # vLLM seeds this process's generators
                self._engine = self._start(policy)
            random.setstate(state)
        with merged(policy):
            weights = [
                (name.replace(".base_layer.", "."), weight.detach())
                for name, weight in causal_lm(policy).named_parameters(remove_duplicate=False)
                if "lora_" not in name
            ]
            # Not the model's load_weights: the engine may hold weights in another layout by now.
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._engine.reset_prefix_cache()

    def _start(self, policy: nn.Module) -> Any:  # noqa: ANN401 - vLLM has no types
        """An engine with random weights."""
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise ValueError(
                "sampler: vllm serves runs of one process so far; use sampler: shared_prefix"
            )
        # In this process, where the weights are; read by vLLM when it is imported.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from vllm import LLM

        base = causal_lm(policy)
        limits = {} if self.batch_size is None else {"max_num_seqs": self.batch_size}
        config = copy.deepcopy(base.config)
        if base.device.type == "cpu":
            # There vLLM packs the head's weights apart, and renews them only if they are not tied.
            config.tie_word_embeddings = False
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            return LLM(
                model=folder,
                load_format="dummy",
                dtype=str(base.dtype).removeprefix("torch."),
                gpu_memory_utilization=self.memory,
                generation_config="vllm",  # none: a released one would leak into the distribution
                logprobs_mode="processed_logprobs",  # with temperature, as the update's
                seed=0,
                **limits,
            )

    def _parameters(self, settings: SamplingSettings, seed: int) -> Any:  # noqa: ANN401
        """One row's settings in vLLM's words."""
        from vllm import SamplingParams

        return SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            min_p=settings.min_p,
            max_tokens=settings.max_new_tokens,
            stop=settings.stop,
            stop_token_ids=self.end_tokens,
            ignore_eos=True,  # what ends a completion is in end_tokens
            allowed_token_ids=settings.allowed_ids(self.tokenizer),
            logprobs=0,  # of the drawn token alone
            detokenize=bool(settings.stop),
            seed=seed,
        )


def check_installed() -> None:
    """Refuse to go on without vLLM.

    Raises:
        ValueError: if it is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ValueError("sampler: vllm needs vLLM: pip install 'lgrpo-lightning[vllm]'")


@contextmanager
def merged(policy: nn.Module) -> Iterator[None]:
    """While open, a LoRA adapter is part of the weights it adapts."""
    if causal_lm(policy) is policy:
        yield
        return
    merge: Any = policy
    merge.merge_adapter()
    try:
        yield
    finally:
        merge.unmerge_adapter()
