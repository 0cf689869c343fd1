"""vLLM engines that were started by ``vllm serve``, asked over HTTP."""

import json
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn

from lgrpo_lightning.policy.merged import merged_weights
from lgrpo_lightning.policy.support import causal_lm
from lgrpo_lightning.rollout.vllm_engine import Row
from lgrpo_lightning.rollout.vllm_settings import VLLMSettings

MEMORY = Path("/dev/shm")  # Linux's file system in memory
AT_ONCE = 256  # requests under way from one process


class ServerEngine:
    """Servers that all processes share; the first process gives them the weights.

    The weights are written into a folder that the servers see, which is emptied when they have been
    read. A server needs ``VLLM_SERVER_DEV_MODE=1``; its settings are checked before its first use.

    Args:
        settings: addresses, folder, time limit.
    """

    def __init__(self, settings: VLLMSettings) -> None:
        self.settings = settings
        self.ready = False  # whether they have weights

    def sync(self, policy: nn.Module) -> None:
        """Have all servers load the policy's weights; called by all processes at once.

        Raises:
            ValueError: if a server cannot be used, on all processes.
        """
        world = distributed.get_world_size() if distributed.is_initialized() else 1
        if world > 1:
            distributed.barrier()  # nobody is sampling any more
        problem: list[str | None] = [None]
        weights = merged_weights(policy)
        if world == 1 or distributed.get_rank() == 0:
            try:
                self._load(policy, weights)
            except (OSError, ValueError) as error:
                problem = [str(error)]
        for _ in weights:  # what is left: all processes gather what is sharded
            pass
        if world > 1:
            distributed.broadcast_object_list(problem, src=0)
        if problem[0] is not None:
            raise ValueError(problem[0])
        self.ready = True

    def _load(self, policy: nn.Module, weights: Iterable[tuple[str, Tensor]]) -> None:
        if not self.ready:
            tied = bool(causal_lm(policy).config.tie_word_embeddings)
            for url in self.settings.urls:
                check_server(url, self._get(url, "/server_info?config_format=json"), tied)
        parent = self.settings.weights_folder or (MEMORY if MEMORY.is_dir() else None)
        folder = Path(tempfile.mkdtemp(prefix="lgrpo-weights-", dir=parent))
        try:
            write_weights(folder, weights)
            arguments = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            for url in self.settings.urls:
                self._post(url, "/collective_rpc", arguments)
                self._post(url, "/reset_prefix_cache", {})
        finally:
            shutil.rmtree(folder)

    def generate(
        self, prompts: Sequence[list[int]], group_size: int, parameters: Sequence[dict[str, Any]]
    ) -> list[list[Row]]:
        """See :class:`~lgrpo_lightning.rollout.vllm_engine.Engine`."""
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        url = self.settings.urls[rank % len(self.settings.urls)]

        def ask(prompt: list[int], parameters: dict[str, Any]) -> list[Row]:
            body = {"prompt": prompt, "return_token_ids": True, **parameters}
            choices = self._post(url, "/v1/completions", body)["choices"]
            return [_row(choice) for choice in sorted(choices, key=lambda choice: choice["index"])]

        with ThreadPoolExecutor(min(len(prompts), AT_ONCE)) as pool:
            return list(pool.map(ask, prompts, parameters))

    def sleep(self) -> None:
        """A server has its device for itself."""

    def _get(self, url: str, path: str) -> Any:  # noqa: ANN401 - JSON
        return self._answer(urllib.request.Request(url.rstrip("/") + path))

    def _post(self, url: str, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        return self._answer(urllib.request.Request(url.rstrip("/") + path, data, headers))

    def _answer(self, request: urllib.request.Request) -> Any:  # noqa: ANN401 - JSON
        address = request.full_url
        try:
            with urllib.request.urlopen(request, timeout=self.settings.timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise ValueError(
                    f"the vLLM server has no {address}; start it with VLLM_SERVER_DEV_MODE=1"
                ) from error
            detail = error.read().decode(errors="replace")[:2000]
            raise ValueError(f"{address} answered {error.code}: {detail}") from error
        except OSError as error:
            raise ValueError(
                f"no answer from the vLLM server at {address}: {error}; it is started with "
                "`vllm serve`, see docs/sampling.md"
            ) from error
        return json.loads(text) if text else None


def check_server(url: str, info: dict[str, Any], tied: bool) -> None:
    """Refuse a server whose samples or log-probs would not be the policy's.

    Args:
        url: its address, for the message.
        info: what it says of itself.
        tied: whether the policy's head is its embedding; on CPUs vLLM packs a head's weights apart
            and renews them only if they are not tied.

    Raises:
        ValueError: naming the option it lacks.
    """
    model = info["vllm_config"]["model_config"]
    on_cpu = info["vllm_config"]["device_config"]["device"] == "cpu"
    untied = (model["hf_overrides"] or {}).get("tie_word_embeddings") is False
    lacking = [
        option
        for option, fault in (
            ("--logprobs-mode processed_logprobs", model["logprobs_mode"] != "processed_logprobs"),
            ("--generation-config vllm", model["generation_config"] != "vllm"),
            ("--hf-overrides '{\"tie_word_embeddings\": false}'", on_cpu and tied and not untied),
        )
        if fault
    ]
    if lacking:
        raise ValueError(
            f"the vLLM server at {url} would not sample from the policy; start it with "
            f"{' and '.join(lacking)}"
        )


def write_weights(folder: Path, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Write weights as a checkpoint holds them, tied ones by each of their names."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, weight in weights:
        tensor = weight.to(torch.device("cpu")).contiguous()
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _row(choice: dict[str, Any]) -> Row:
    if choice["finish_reason"] not in ("stop", "length"):
        raise ValueError(f"the vLLM server ended a completion by {choice['finish_reason']!r}")
    logprobs = choice["logprobs"]["token_logprobs"]
    return Row(choice["token_ids"], logprobs, choice["finish_reason"] == "stop")
