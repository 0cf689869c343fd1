"""``lgrpo memory``: what a run takes on each process, told from its config before it is run."""

import argparse
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch

from lgrpo_callbacks.tables import format_table
from lgrpo_lightning.cli.command import LambdaCLI
from lgrpo_lightning.cli.options import check_options
from lgrpo_lightning.memory import Estimate, MemoryCase, estimate
from lgrpo_lightning.memory.estimate import PHASES
from lgrpo_lightning.policy import LoRASettings, PolicySettings, resolve_engine
from lgrpo_lightning.rollout.support import SHARED_PREFIX_FAMILIES

GIBIBYTE = 2**30
# Numbers kept per trained weight by optimizers of torch other than Adam's kin, which keep two.
OPTIMIZER_VALUES = {"Adafactor": 0, "Adagrad": 1, "ASGD": 1, "RMSprop": 1, "Rprop": 2, "SGD": 0}


class OptionsOnly(LambdaCLI):
    """The command line, up to its options."""

    def _set_seed(self) -> None:
        """Nothing is random here."""

    def before_instantiate_classes(self) -> None:
        """Neither threads nor checkpoints are of interest."""

    def instantiate_classes(self) -> None:
        """Make nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def main(argv: Sequence[str]) -> None:
    """Print the memory of a run.

    Args:
        argv: what follows ``lgrpo memory``: the options of ``lgrpo fit``, and a few of its own.

    Raises:
        ValueError: if the run cannot be made with these options.
    """
    own = argparse.ArgumentParser(
        prog="lgrpo memory",
        usage="lgrpo memory -c CONFIG [-c CONFIG …] [--prompt_tokens N] [--option VALUE …]",
        description="Estimate the memory of each process of a run of `lgrpo fit` with the same "
        "options. No weights are loaded; of a model on the hub only its configuration is.",
        allow_abbrev=False,
    )
    own.add_argument(
        "--prompt_tokens",
        type=int,
        default=256,
        help="tokens of the longest prompt of a rollout (default: 256)",
    )
    own.add_argument(
        "--completion_tokens",
        type=int,
        help="tokens of every completion; by default as many as model.sampling.max_new_tokens",
    )
    own.add_argument(
        "--shared",
        type=float,
        default=0.0,
        help="share of the completion tokens that begin another completion of the group, too, and "
        "that the tree engine runs only once (default: 0)",
    )
    known, others = own.parse_known_args(argv)
    for name in ("prompt_tokens", "completion_tokens"):
        value = getattr(known, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if not 0 <= known.shared < 1:
        raise ValueError(f"--shared must be in [0, 1), got {known.shared}")
    options = options_of(others)
    check_options(options)
    case = case_of(options.as_dict(), known.prompt_tokens, known.completion_tokens, known.shared)
    print(table(case, estimate(case)))


def options_of(arguments: Sequence[str]) -> Any:  # noqa: ANN401 - jsonargparse's Namespace
    """What ``lgrpo fit`` makes of its arguments."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        return OptionsOnly(["fit", *arguments]).options


def case_of(
    options: dict[str, Any], prompt_tokens: int, completion_tokens: int | None, shared: float
) -> MemoryCase:
    """What memory depends on, out of the options of ``lgrpo fit``.

    Raises:
        ValueError: if there is no such model, or it cannot be run that way.
    """
    trainer, model, data = options["trainer"], options["model"], options["data"]
    settings = dict(model["policy"])
    if settings["lora"] is not None:
        settings["lora"] = LoRASettings(**settings["lora"])
    policy = PolicySettings(**settings)
    config = policy.load_config()
    device: Literal["cpu", "cuda"] = "cpu" if trainer["accelerator"] == "cpu" else "cuda"
    processes = _devices(trainer["devices"]) * trainer["num_nodes"]
    strategy = _strategy(trainer["strategy"], processes)
    prompts, size = data["prompts_per_rollout"], model["group_size"]
    evaluated = data["eval_path"] is not None or data["eval_split"] is not None
    rows = max(
        prompts * size, evaluated * data["eval_prompts_per_batch"] * model["eval_completions"]
    )
    sampler = model["sampler"]
    if sampler == "auto":
        served = strategy != "fsdp2" and config.model_type in SHARED_PREFIX_FAMILIES
        sampler = "shared_prefix" if served else "hf"
    return MemoryCase(
        policy=policy,
        precision=_precision(trainer["precision"]),
        strategy=strategy,
        processes=processes,
        device=device,
        num_prompts=prompts,
        group_size=size,
        micro_batch_size=model["micro_batch_size"] or prompts * size,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens or model["sampling"]["max_new_tokens"],
        shared=shared,
        has_reference=model["loss"]["kl_coef"] > 0,
        engine=resolve_engine(config, model["engine"], policy.compile)[0],
        sampler=sampler,
        sampler_rows=min(model["sampler_batch_size"] or rows, rows),
        optimizer_values=_optimizer_values(model["optimizer"]),
    )


def _devices(given: Any) -> int:  # noqa: ANN401 - Lightning's many forms
    """How many processes a machine has; ``auto`` for its GPUs."""
    if isinstance(given, list):
        return len(given)
    return int(given) if str(given).isdigit() and int(given) else max(torch.cuda.device_count(), 1)


def _strategy(given: Any, processes: int) -> Literal["one", "ddp", "fsdp2"]:  # noqa: ANN401
    name = given if isinstance(given, str) else given["class_path"].rpartition(".")[2]
    if name in ("fsdp2", "FSDP2Strategy", "ModelParallelStrategy"):
        return "fsdp2"
    return "ddp" if name.lower().startswith("ddp") or processes > 1 else "one"


def _precision(given: Any) -> str:  # noqa: ANN401
    """Lightning's name for a precision; it has several for each."""
    short = {"None": "32-true", "64": "64-true", "32": "32-true", "16": "16-mixed"}
    return short.get(str(given), {"bf16": "bf16-mixed"}.get(str(given), str(given)))


def _optimizer_values(given: Any) -> int:  # noqa: ANN401
    """Numbers that the optimizer keeps per weight; two where it is not known."""
    if not isinstance(given, dict) or "class_path" not in given:
        return 2
    name = given["class_path"].rpartition(".")[2]
    momentum = name == "SGD" and given.get("init_args", {}).get("momentum", 0) > 0
    return OPTIMIZER_VALUES.get(name, 2) + int(momentum)


def table(case: MemoryCase, found: Estimate) -> str:
    """The estimate in words: what takes how much, and when."""
    processes = "one process" if case.processes == 1 else f"each of {case.processes} processes"
    header = (
        f"memory of {processes} ({case.strategy}, {case.precision}, {case.device}), prompts of "
        f"{case.prompt_tokens} and completions of {case.completion_tokens} tokens, engine "
        f"{case.engine}, sampler {case.sampler}"
    )
    rows = [(part.name, _size(part.bytes), part.phase or "always") for part in found.parts]
    rows += [("together", _size(found.at(phase)), phase) for phase in PHASES]
    rows.append(("peak", _size(found.peak), max(PHASES, key=found.at)))
    lines = [header, "", format_table(["what", "size", "when"], rows)]
    for part in found.elsewhere:
        lines.append(f"\nand in the CPU's memory: {part.name}, {_size(part.bytes)}")
    return "\n".join(lines)


def _size(count: float) -> str:
    unit, name = (GIBIBYTE, "GiB") if count >= GIBIBYTE else (GIBIBYTE / 1024, "MiB")
    return f"{count / unit:6.1f} {name}"
