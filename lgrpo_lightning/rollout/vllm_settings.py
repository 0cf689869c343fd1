"""Where vLLM runs and what it may take."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

VLLMMode = Literal["colocate", "server"]


@dataclass(frozen=True)
class VLLMSettings:
    """Settings of ``sampler: vllm``.

    Args:
        mode: ``"colocate"``, an engine in every training process, on its device; ``"server"``,
            engines that were started by ``vllm serve``, see docs/sampling.md.
        memory: share of the device's memory that a colocated engine takes, weights included.
        max_model_len: longest prompt with completion, tokens; None for the model's own context. A
            colocated engine needs memory for one that long.
        sleep_level: what a colocated engine gives back between rollouts: 0 nothing, 1 its cache,
            while its weights wait in the host's memory, 2 its weights, too. GPUs only.
        urls: addresses of the servers; training process r asks the r-th of them, counted round.
        weights_folder: where weights are put for the servers to read, a folder that they see under
            the same path; None for a temporary one in memory on this machine.
        timeout: seconds that a server may take for one prompt's completions or for loading weights.
        engine: further arguments of a colocated engine (``vllm.LLM``).

    Raises:
        ValueError: if a value is out of range or belongs to the other mode.
    """

    mode: VLLMMode = "colocate"
    memory: float = 0.3
    max_model_len: int | None = None
    sleep_level: int = 0
    urls: list[str] = field(default_factory=list)
    weights_folder: str | None = None
    timeout: float = 600.0
    engine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values, before an engine is started."""
        if self.mode not in get_args(VLLMMode):
            raise ValueError(f"vllm.mode must be one of {get_args(VLLMMode)}, got {self.mode!r}")
        if not 0 < self.memory <= 1:
            raise ValueError(f"vllm.memory must be in (0, 1], got {self.memory}")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ValueError(f"vllm.max_model_len must be at least 2, got {self.max_model_len}")
        if self.sleep_level not in (0, 1, 2):
            raise ValueError(f"vllm.sleep_level must be 0, 1 or 2, got {self.sleep_level}")
        if not self.timeout > 0:
            raise ValueError(f"vllm.timeout must be above 0, got {self.timeout}")
        if self.mode == "server" and not self.urls:
            raise ValueError("vllm.mode is server, so vllm.urls must name one: http://HOST:8000")
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"vllm.urls: {url!r} is no address; give http://HOST:PORT")
        self._check_mode("colocate", ("max_model_len", "sleep_level", "engine"))
        self._check_mode("server", ("urls", "weights_folder"))

    def _check_mode(self, mode: VLLMMode, names: tuple[str, ...]) -> None:
        """Refuse settings of the other mode, which would be without effect."""
        for name in names:
            if getattr(self, name) and self.mode != mode:
                raise ValueError(
                    f"vllm.{name} is {getattr(self, name)!r}, which has no effect on mode "
                    f"{self.mode!r}; leave it out, or set vllm.mode to {mode!r}"
                )
