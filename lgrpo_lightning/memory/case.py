"""What an estimate depends on."""

from dataclasses import dataclass
from typing import Literal

from lgrpo_lightning.policy import Engine, PolicySettings


@dataclass(frozen=True)
class MemoryCase:
    """The settings of a run that its memory depends on, for one of its processes.

    Attributes:
        policy: the model.
        precision: Lightning's, such as ``"bf16-mixed"``.
        strategy: how processes share the work.
        processes: how many there are.
        device: kind of the device.
        num_prompts: B, prompts of a rollout on this process.
        group_size: G.
        micro_batch_size: M, completions of a training step.
        prompt_tokens: P, of the longest prompt.
        completion_tokens: T, of every completion.
        shared: share of the completion tokens that the tree engine runs for another one, too.
        has_reference: whether there is a KL term.
        engine: how log-probs are computed.
        sampler: ``"shared_prefix"``, ``"hf"`` or ``"vllm"``.
        sampler_rows: completions sampled at a time.
        optimizer_values: numbers that the optimizer keeps per trained weight.
    """

    policy: PolicySettings
    precision: str
    strategy: Literal["one", "ddp", "fsdp2"]
    processes: int
    device: Literal["cpu", "cuda"]
    num_prompts: int
    group_size: int
    micro_batch_size: int
    prompt_tokens: int
    completion_tokens: int
    shared: float
    has_reference: bool
    engine: Engine
    sampler: str
    sampler_rows: int
    optimizer_values: int

    @property
    def mixed(self) -> bool:
        """Whether weights are cast for every product."""
        return self.precision.endswith("mixed")

    @property
    def groups(self) -> int:
        """Prompts of a micro-batch; of a group that is cut, every part has its own."""
        return max(self.micro_batch_size // self.group_size, 1)

    @property
    def trained_tokens(self) -> int:
        """Completion tokens of a micro-batch, those that are shared once."""
        unique = 1 - self.shared if self.engine == "tree" else 1
        return round(unique * self.micro_batch_size * self.completion_tokens)

    @property
    def row_tokens(self) -> int:
        """Tokens that the model runs on in a training step."""
        rows = self.groups if self.engine == "tree" else self.micro_batch_size
        return rows * self.prompt_tokens + self.trained_tokens
