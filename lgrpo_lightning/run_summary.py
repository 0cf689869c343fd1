"""What a person wants to know when a run has ended."""

import statistics
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lgrpo_callbacks import RewardEvaluator, read_jsonl

_MEASURES = ("reward", "pass@1", "length", "truncated")
_EXAMPLES = 3
_WIDTH = 88


def summarise(folder: Path, trainer: Trainer) -> str:
    """Where the run is, what evaluation says it improved, examples, and what to do next."""
    evaluators = [
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, RewardEvaluator)
    ]
    parts = [f"run folder: {folder}"]
    if evaluators:
        parts += _improvement(evaluators[0])
    parts += _next_commands(folder)
    return "\n\n".join(parts)


def _improvement(evaluator: RewardEvaluator) -> list[str]:
    records = [record for record in evaluator.history if record["stage"] == "validation"]
    if len(records) < 2:
        return []
    first, last = records[0], records[-1]
    lines = [f"evaluation at step {first['step']} and at step {last['step']}:"]
    for measure in _MEASURES:
        name = f"{evaluator.prefixes['validation']}/{measure}"
        if name in last["metrics"]:
            before, after = first["metrics"].get(name, float("nan")), last["metrics"][name]
            lines.append(f"  {name:<16}{before:>10.3f}  →{after:>8.3f}")
    return ["\n".join(lines), _examples(Path(first["file"]), Path(last["file"]))]


def _examples(before: Path, after: Path) -> str:
    """Problems whose reward changed most, with a completion from before and one from after."""
    pairs = list(zip(read_jsonl(before), read_jsonl(after), strict=False))
    pairs = [(old, new) for old, new in pairs if old["prompt"] == new["prompt"]]
    pairs.sort(key=_loss_of_reward)
    blocks = [f"{len(pairs[:_EXAMPLES])} completions before and after:"]
    for old, new in pairs[:_EXAMPLES]:
        lines = [f"  prompt   {_shortened(old['prompt'])}"]
        for name, problem in (("before", old), ("after", new)):
            text, reward = _shortened(problem["completions"][0]), problem["rewards"][0]
            lines.append(f"  {name:<7}  {text}   (reward {reward:g})")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _loss_of_reward(pair: tuple[dict[str, Any], dict[str, Any]]) -> float:
    before, after = (statistics.fmean(problem["rewards"]) for problem in pair)
    return before - after


def _next_commands(folder: Path) -> list[str]:
    config, last = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    lines = ["next:"]
    if last.is_file() and config.is_file():
        lines.append(f"  lgrpo validate -c {config} --ckpt_path {last}")
    lines.append(f"  tensorboard --logdir {folder.parent}")
    return ["\n".join(lines)]


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"
