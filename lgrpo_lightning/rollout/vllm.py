"""Sampling with vLLM: an engine in the training process, or a server, with the policy's weights.

Legend: B prompts, G completions of a group, T tokens of the longest completion.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lgrpo_lightning.policy.merged import check_mergeable
from lgrpo_lightning.rollout.completions import Completions
from lgrpo_lightning.rollout.seeds import derive_seed
from lgrpo_lightning.rollout.settings import SamplingSettings
from lgrpo_lightning.rollout.vllm_colocated import ColocatedEngine
from lgrpo_lightning.rollout.vllm_engine import Row, request
from lgrpo_lightning.rollout.vllm_server import ServerEngine
from lgrpo_lightning.rollout.vllm_settings import VLLMSettings

_SETTINGS = VLLMSettings()


class VLLMSampler:
    """Draws completions with a vLLM engine, started by the first call.

    It samples from the weights of the last :meth:`sync`, a LoRA adapter merged into them. Its
    log-probs are those it drew from: with temperature and allowed tokens, but also with top-k,
    top-p and min-p, where those are used.

    Args:
        tokenizer: the policy's.
        end_tokens: ids that end a completion.
        batch_size: completions that a colocated engine runs at a time, at most; None for vLLM's own
            limit.
        settings: where vLLM runs and what it may take.

    Raises:
        ValueError: if vLLM is to run in this process and is not installed, there is no end token,
            or a number is out of range.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        end_tokens: Sequence[int],
        batch_size: int | None = None,
        settings: VLLMSettings = _SETTINGS,
    ) -> None:
        if not end_tokens:
            raise ValueError("end_tokens is empty, so no completion would ever end")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"the sampler's batch_size must be at least 1, got {batch_size}")
        self.tokenizer = tokenizer
        self.end_tokens = list(end_tokens)
        self.engine: ColocatedEngine | ServerEngine = (
            ServerEngine(settings)
            if settings.mode == "server"
            else ColocatedEngine(tokenizer, batch_size, settings)
        )

    @torch.no_grad()
    def sync(self, policy: nn.Module) -> None:
        """Copy the policy's weights into the engine; called by all processes at once.

        Raises:
            ValueError: if the policy's weights are quantized, or the engine cannot be started or
                reached.
        """
        check_mergeable(policy)
        self.engine.sync(policy)

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

        An engine that has no weights yet, or slept, gets the policy's.
        """
        if not self.engine.ready:
            self.sync(policy)
        allowed = settings.allowed_ids(self.tokenizer)
        groups = self.engine.generate(
            [ids[mask].tolist() for ids, mask in zip(prompt_ids, prompt_mask.bool(), strict=True)],
            group_size,
            [
                request(settings, allowed, self.end_tokens, group_size, derive_seed(seed, row) >> 1)
                for row in range(len(prompt_ids))
            ],
        )
        self.engine.sleep()
        return self._completions(groups, prompt_ids.device)

    def _completions(self, groups: list[list[Row]], device: torch.device) -> Completions:
        """Rows as tensors."""
        rows = [row for group in groups for row in group]
        lengths = torch.tensor([len(row.ids) for row in rows])
        shape = (len(groups), len(groups[0]), int(lengths.max()))
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(rows), shape[2]), self.end_tokens[0] if pad is None else int(pad))
        logprobs = torch.zeros(ids.shape, dtype=torch.float32)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = torch.tensor(row.ids)
            logprobs[number, : len(row.ids)] = torch.tensor(row.logprobs)
        mask = torch.arange(shape[2]) < lengths.unsqueeze(1)
        finished = torch.tensor([row.finished for row in rows])
        return Completions(
            ids=ids.view(shape).to(device),
            mask=mask.view(shape).to(device),
            logprobs=logprobs.view(shape).to(device),
            finished=finished.view(shape[:2]).to(device),
        )
