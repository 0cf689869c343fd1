"""What a person wants to know when a training run has ended."""

import math
import shutil
import statistics
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from lgrpo_callbacks import RewardEvaluator, read_jsonl
from lgrpo_callbacks.evaluation import EvaluationRecord
from lgrpo_callbacks.tables import format_table, shorten
from lgrpo_lightning.cli.run_folder import CHECKPOINTS, newest_checkpoint, shown_path

_MEASURES = ("reward", "pass@", "length", "truncated")
_EXAMPLES = 3


def summarise(folder: Path, trainer: Trainer) -> str:
    """Where the run is, what it improved, examples, and what to do next."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning does not declare it
    evaluators = [callback for callback in callbacks if isinstance(callback, RewardEvaluator)]
    best = best_checkpoint(trainer)
    parts = [f"finished at optimizer step {trainer.global_step}; run folder: {shown_path(folder)}"]
    parts += _evaluations(evaluators[0], best) if evaluators else [_rewards_only(trainer)]
    return "\n\n".join([*parts, *_next_commands(folder, trainer, best)])


def best_checkpoint(trainer: Trainer) -> ModelCheckpoint | None:
    """The callback that kept the checkpoint with the best evaluation; None where none did."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            return callback
    return None


def _rewards_only(trainer: Trainer) -> str:
    advice = (
        "to see what training improves, give data.eval_path and the callback "
        "lgrpo_callbacks.RewardEvaluator"
    )
    reward = trainer.callback_metrics.get("train/reward")
    return advice if reward is None else f"reward of the last step: {reward:.3f}; {advice}"


def _evaluations(evaluator: RewardEvaluator, best: ModelCheckpoint | None) -> list[str]:
    records = [record for record in evaluator.history if record["stage"] == "validation"]
    if not records:
        return ["nothing was evaluated: see trainer.val_check_interval and data.eval_path"]
    first, last = records[0], records[-1]
    shown = {"": first}
    top = _best_record(records, best)
    if top is not None and top is not last:
        shown["best"] = top
    shown["last"] = last
    if first is last:
        del shown[""]
    prefix = f"{evaluator.prefixes['validation']}/"
    names = [prefix + name for name in _telling(n.removeprefix(prefix) for n in last["metrics"])]
    header = ["evaluation", *(f"{kind} step {r['step']}".strip() for kind, r in shown.items())]
    rows = [
        [name, *(f"{r['metrics'].get(name, math.nan):.3f}" for r in shown.values())]
        for name in names
    ]
    parts = [format_table(header, rows)]
    if first is last and first["step"] == 0:
        return [*parts, "to see what improved, lower trainer.val_check_interval (training steps)"]
    if first is last:
        return [*parts, "to compare with before training, set trainer.num_sanity_val_steps to -1"]
    return parts + _examples(Path(first["file"]), Path(last["file"]))


def _telling(names: Iterable[str]) -> list[str]:
    """The figures that belong into the short table, in its order."""
    known = list(names)
    found = [name for name in known if name.startswith(_MEASURES) and "/" not in name]
    shown = [name for name in found if not name.endswith(("_low", "_high", "_std", "_se"))]
    shown.sort(key=lambda name: next(i for i, m in enumerate(_MEASURES) if m in name))
    sets = [name for name in known if name.startswith("source/") and name.endswith("/pass@1")]
    return shown + (sets if len(sets) > 1 else [])


def _best_record(
    records: list[EvaluationRecord], best: ModelCheckpoint | None
) -> EvaluationRecord | None:
    """The evaluation that the best checkpoint was chosen for, the latest of equals."""
    if best is None or best.monitor is None:
        return None
    values = {i: r["metrics"].get(best.monitor, math.nan) for i, r in enumerate(records)}
    known = {i: value for i, value in values.items() if not math.isnan(value)}
    sign = 1 if best.mode == "max" else -1
    return records[max(known, key=lambda i: (sign * known[i], i))] if known else None


def _examples(before: Path, after: Path) -> list[str]:
    """Problems whose reward changed most, with a completion from before and one from after."""
    if not (before.is_file() and after.is_file()):  # the run that was resumed may be gone
        return []
    pairs = zip(read_jsonl(before), read_jsonl(after), strict=False)
    same = [(old, new) for old, new in pairs if old["prompt"] == new["prompt"]]
    same.sort(key=lambda pair: _mean_reward(pair[0]) - _mean_reward(pair[1]))
    width = max(60, min(shutil.get_terminal_size().columns, 120)) - 12
    blocks = [f"{len(same[:_EXAMPLES])} completions before and after:"] if same else []
    for old, new in same[:_EXAMPLES]:
        lines = [_entry("prompt", old["prompt"], 2 * width, width)]
        for name, problem in (("before", old), ("after", new)):
            reward = problem["rewards"][0]
            text = shorten(problem["completions"][0], 3 * width) or "(empty)"
            rated = "no reward" if reward is None else f"reward {reward:g}"
            lines.append(_entry(name, f"{text}  ({rated})", 4 * width, width))
        blocks.append("\n".join(lines))
    return blocks


def _mean_reward(problem: dict[str, Any]) -> float:
    """Mean over the completions that a reward applied to, 0 without any."""
    rewards = [reward for reward in problem["rewards"] if reward is not None]
    return statistics.fmean(rewards) if rewards else 0.0


def _entry(name: str, text: str, length: int, width: int) -> str:
    wrapped = textwrap.wrap(shorten(text, length), width) or [""]
    return textwrap.indent("\n".join(wrapped), " " * 11).replace(" " * 11, f"  {name:<9}", 1)


def _next_commands(folder: Path, trainer: Trainer, best: ModelCheckpoint | None) -> list[str]:
    config = folder / "config.yaml"
    saved = newest_checkpoint((folder / CHECKPOINTS).glob("*.ckpt"))
    chosen = Path(best.best_model_path) if best is not None else saved
    lines = []
    if chosen is not None and config.is_file():
        lines += [
            f"  lgrpo validate -c {shown_path(config)} \\",
            f"      --ckpt_path {shown_path(chosen)}",
        ]
    if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        lines.append(f"  tensorboard --logdir {shown_path(folder.parent)}")
    if config.is_file():
        lines.append(f"  lgrpo report {shown_path(folder)}")
    which = ""
    if best is not None:
        which = f", with the best checkpoint ({best.monitor} {best.best_model_score:.3f})"
    return ["\n".join([f"next{which}:", *lines])] if lines else []
