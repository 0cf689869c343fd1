"""A vLLM engine in the training process, on its device."""

import copy
import importlib.util
import os
import random
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from lgrpo_lightning.policy.merged import merged_weights
from lgrpo_lightning.policy.support import causal_lm
from lgrpo_lightning.rollout.seeds import seeded
from lgrpo_lightning.rollout.vllm_engine import Row
from lgrpo_lightning.rollout.vllm_settings import VLLMSettings


class ColocatedEngine:
    """Starts with the first weights it is given; on several processes each has its own.

    Args:
        tokenizer: the policy's.
        batch_size: completions run at a time, at most; None for vLLM's own limit.
        settings: memory, context, sleep, further arguments.

    Raises:
        ValueError: if vLLM is not installed.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int | None,
        settings: VLLMSettings,
    ) -> None:
        check_installed()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.settings = settings
        self._engine: Any = None
        self._asleep = False

    def sync(self, policy: nn.Module) -> None:
        """Copy the policy's weights into the engine, which is started or woken if need be.

        Raises:
            ValueError: if the engine is to sleep on a device where it cannot.
        """
        if self._engine is None:
            state = random.getstate()
            with seeded(0, causal_lm(policy).device):  # vLLM seeds this process's generators
                self._engine = self._start(policy)
            random.setstate(state)
        elif self._asleep:
            self._engine.wake_up(tags=["weights"])  # the cache later, when loading is over
        # Not the model's load_weights: the engine may hold weights in another layout by now.
        weights = merged_weights(policy)
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if self._asleep:
            self._engine.wake_up(tags=["kv_cache"])
            self._asleep = False
        self._engine.reset_prefix_cache()

    def generate(
        self, prompts: Sequence[list[int]], group_size: int, parameters: Sequence[dict[str, Any]]
    ) -> list[list[Row]]:
        """See :class:`~lgrpo_lightning.rollout.vllm_engine.Engine`."""
        from vllm import SamplingParams

        outputs = self._engine.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            [SamplingParams(detokenize=bool(each["stop"]), **each) for each in parameters],
            use_tqdm=False,
        )
        return [[_row(completion) for completion in output.outputs] for output in outputs]

    def sleep(self) -> None:
        """Give memory back until the next weights come, if settings say so."""
        if self.settings.sleep_level:
            self._engine.sleep(level=self.settings.sleep_level)
            self._asleep = True

    @property
    def ready(self) -> bool:
        """Whether it has weights and is awake."""
        return self._engine is not None and not self._asleep

    def _start(self, policy: nn.Module) -> Any:  # noqa: ANN401 - vLLM has no types
        """An engine with random weights."""
        base = causal_lm(policy)
        check_sleep(self.settings, base.device)
        # In this process, where the weights are; read by vLLM when it is imported.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from vllm import LLM

        arguments: dict[str, Any] = {
            "load_format": "dummy",
            "dtype": str(base.dtype).removeprefix("torch."),
            "gpu_memory_utilization": self.settings.memory,
            "generation_config": "vllm",  # none: a released one would leak into the distribution
            "logprobs_mode": "processed_logprobs",  # with temperature, as the update's
            "max_model_len": self.settings.max_model_len,
            "enable_sleep_mode": self.settings.sleep_level > 0,
            "seed": 0,
        }
        if self.batch_size is not None:
            arguments["max_num_seqs"] = self.batch_size
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            # Lightning's processes, of which every one is an engine of its own to vLLM.
            rank, place = torch.distributed.get_rank(), base.device.index
            os.environ.setdefault("RANK", str(rank))
            os.environ.setdefault("LOCAL_RANK", str(rank if place is None else place))
            arguments["distributed_executor_backend"] = "external_launcher"
        else:
            # vLLM makes a group of one process, which Lightning takes for a sign of several.
            warnings.filterwarnings("ignore", message="It is recommended to use `self.log")
        config = copy.deepcopy(base.config)
        if base.device.type == "cpu":
            # There vLLM packs the head's weights apart, and renews them only if they are not tied.
            config.tie_word_embeddings = False
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            return LLM(model=folder, **arguments | self.settings.engine)


def check_installed() -> None:
    """Refuse to go on without vLLM.

    Raises:
        ValueError: if it is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ValueError("sampler: vllm needs vLLM: pip install 'lgrpo-lightning[vllm]'")


def check_sleep(settings: VLLMSettings, device: torch.device) -> None:
    """Refuse to sleep where vLLM would stay awake.

    Raises:
        ValueError: if there is a sleep level on a CPU.
    """
    if settings.sleep_level and device.type == "cpu":
        raise ValueError(
            f"vllm.sleep_level is {settings.sleep_level}, but vLLM does not sleep on a CPU; set it "
            "to 0"
        )


def _row(completion: Any) -> Row:  # noqa: ANN401 - vLLM has no types
    logprobs = [
        step[token].logprob
        for token, step in zip(completion.token_ids, completion.logprobs, strict=True)
    ]
    return Row(list(completion.token_ids), logprobs, completion.finish_reason == "stop")
