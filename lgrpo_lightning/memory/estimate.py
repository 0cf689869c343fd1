"""The parts of a run's memory and when they are there.

Legend: B prompts, G completions of a group, T completion tokens, P prompt tokens, M completions of
a micro-batch, n tokens the model runs on, V vocabulary, D hidden size, H heads, K key-value heads,
E head size.
"""

from dataclasses import dataclass

from lgrpo_lightning.memory.case import MemoryCase
from lgrpo_lightning.memory.skeleton import Skeleton, skeleton
from lgrpo_lightning.policy.logit_tiles import LARGE_TILE, TILE

FOUR_BITS = 0.5 + 1 / 64 + 1 / 256  # bytes of a weight in NF4 with the scales of its blocks
PHASES = ("sampling", "training step", "optimizer step")


@dataclass(frozen=True)
class Part:
    """One thing that takes memory.

    Attributes:
        name: what it is.
        bytes: how much.
        phase: when it is there; None for always.
    """

    name: str
    bytes: float
    phase: str | None = None


@dataclass(frozen=True)
class Estimate:
    """Memory of one process.

    Attributes:
        parts: what takes it.
        elsewhere: what is in the CPU's memory while the device is a GPU.
    """

    parts: list[Part]
    elsewhere: list[Part]

    def at(self, phase: str) -> float:
        """Bytes in a phase."""
        return sum(part.bytes for part in self.parts if part.phase in (None, phase))

    @property
    def peak(self) -> float:
        """Bytes in the phase that takes most."""
        return max(self.at(phase) for phase in PHASES)


def estimate(case: MemoryCase) -> Estimate:
    """Estimate the memory of a run on each of its processes.

    Raises:
        ValueError: if there is no such model.
    """
    shape = skeleton(case.policy, case.precision)
    elsewhere: list[Part] = []
    parts = _held(case, shape, elsewhere)
    parts += [_cache(case, shape), _draws(case, shape)]
    parts += [_activations(case, shape), _head(case, shape), _backward(case, shape)]
    parts.append(_update(case, shape))
    return Estimate([part for part in parts if part.bytes], elsewhere)


def _weight_bytes(case: MemoryCase) -> int:
    """Of a weight, where it is not quantized."""
    held = {"32-true": None, "64-true": 8, "bf16-true": 2, "16-true": 2}.get(case.precision)
    return held or {"bfloat16": 2, "float16": 2}.get(case.policy.dtype, 4)


def _trained_bytes(case: MemoryCase) -> int:
    """Of a weight that is trained; adapters are held in float32 on weights in half precision."""
    if case.policy.lora is not None and not case.precision.endswith("true"):
        return 4
    return _weight_bytes(case)


def _compute_bytes(case: MemoryCase) -> int:
    """Of a number that a block computes with."""
    return 2 if case.mixed else _weight_bytes(case)


def _held(case: MemoryCase, shape: Skeleton, elsewhere: list[Part]) -> list[Part]:
    """What is there all the time."""
    size, share = _weight_bytes(case), case.processes if case.strategy == "fsdp2" else 1
    trained = shape.trained * _trained_bytes(case) / share
    frozen = shape.frozen * size / share
    if case.policy.quantization is not None:
        frozen += shape.in_linears * (FOUR_BITS - size)
    parts = [Part("weights", trained + frozen), Part("gradients", trained)]
    if case.strategy == "ddp":
        parts.append(Part("gradients in DDP's buckets", trained))
    parts.append(Part("optimizer", case.optimizer_values * trained))
    if case.has_reference and case.policy.lora is None:
        reference = Part("reference", shape.trained * size / share)
        away = case.policy.reference_device == "cpu" and case.device != "cpu"
        (elsewhere if away else parts).append(reference)
    if case.strategy == "fsdp2":
        whole = shape.trained + shape.frozen
        # What lies outside of the blocks, the block that runs and the one that comes next.
        gathered = whole - shape.in_blocks + 2 * shape.in_blocks / shape.layers
        parts.append(Part("gathered weights", gathered * _compute_bytes(case)))
        if case.policy.lora is None:
            parts.append(Part("gathered gradients", gathered * _compute_bytes(case)))
    return parts


def _cache(case: MemoryCase, shape: Skeleton) -> Part:
    """Keys and values of prompts and completions while sampling."""
    _, heads, size = shape.heads
    rows = case.sampler_rows
    prompts = rows
    if case.sampler == "shared_prefix":
        prompts = min(case.num_prompts, -(-rows // case.group_size) + 1)
    tokens = rows * case.completion_tokens + prompts * case.prompt_tokens
    taken = 2.0 * heads * size * shape.layers * tokens * _compute_bytes(case)
    return Part("keys and values", taken, "sampling")


def _draws(case: MemoryCase, shape: Skeleton) -> Part:
    """Logits of the next tokens and what is drawn from, four times; a block's pass of prompts."""
    logits = 4 * 4 * case.sampler_rows * shape.text.vocab_size
    prompts = case.num_prompts if case.sampler == "shared_prefix" else case.sampler_rows
    passing = 0.6 * shape.kept.per_token_of_a_block * prompts * case.prompt_tokens
    return Part("logits and prompts' pass", logits + passing, "sampling")


def _activations(case: MemoryCase, shape: Skeleton) -> Part:
    """What the forward pass of a micro-batch keeps."""
    n, path = case.row_tokens, _path_bytes(case, shape)
    if case.policy.gradient_checkpointing:
        inputs = (
            shape.layers * n * shape.text.hidden_size * (4 if case.mixed else _compute_bytes(case))
        )
        kept = inputs + shape.kept.per_token_of_a_block * n + path
    else:
        kept = shape.kept.per_token * n + shape.layers * path
    # FSDP2 gathers weights in the type that is computed in.
    casts = 0.0 if case.strategy == "fsdp2" else shape.kept.casts
    return Part("activations", kept + casts, "training step")


def _path_bytes(case: MemoryCase, shape: Skeleton) -> float:
    """What attention path by path keeps in a block beyond attention on each token once.

    On a CPU, the keys and values of a prompt and its completion stand in a row for each completion,
    and so do queries and outputs of the completion.
    """
    if case.engine != "tree" or case.device != "cpu":
        return 0.0
    heads, _, size = shape.heads
    numbers = 2 * heads * (case.prompt_tokens + 2 * case.completion_tokens)
    return float(case.micro_batch_size * numbers * size * _compute_bytes(case))


def _head(case: MemoryCase, shape: Skeleton) -> Part:
    """Hidden states of trained tokens, a tile of logits, and the gradient of the head."""
    hidden = case.trained_tokens * shape.text.hidden_size * (2 * _compute_bytes(case) + 4)
    logits = min(TILE.get(case.device, LARGE_TILE), case.trained_tokens * shape.text.vocab_size)
    head = 0
    if case.policy.lora is None:
        head = shape.text.vocab_size * shape.text.hidden_size * _weight_bytes(case)
    return Part("head", float(hidden + 3 * 4 * logits + head), "training step")


def _backward(case: MemoryCase, shape: Skeleton) -> Part:
    """Gradients of activations, of about half a block at a time."""
    block = shape.kept.per_token_of_a_block * case.row_tokens + _path_bytes(case, shape)
    return Part("backward pass", 0.5 * block, "training step")


def _update(case: MemoryCase, shape: Skeleton) -> Part:
    """What the optimizer computes in passing: of all weights at once on a GPU."""
    share = case.processes if case.strategy == "fsdp2" else 1
    values = shape.trained if case.device == "cuda" else 2 * shape.largest
    return Part("optimizer's step", values * _trained_bytes(case) / share, "optimizer step")
