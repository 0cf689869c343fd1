"""What ``lgrpo validate`` and ``lgrpo test`` leave behind: a table and ``results.json``."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lgrpo_callbacks.jsonl import strict_json
from lgrpo_callbacks.tables import format_table
from lgrpo_lightning.cli.run_folder import shown_path

_NOT_SHOWN = ("_se", "_low", "_high")
_OWN_COLUMNS = ("problems", "pass@1", "reward")


def set_results(metrics: Mapping[str, float], prefix: str) -> dict[str, dict[str, Any]]:
    """What the figures of an evaluation say of each of its sets.

    Args:
        metrics: those of :class:`~lgrpo_callbacks.RewardEvaluator`.
        prefix: of their names, "eval" or "test".

    Returns:
        By name of the set: ``n`` (problems), ``mean`` (share of completions that are right, the
        mean over problems), its ``standard_error`` over problems, and all ``figures`` by name.
    """
    sets: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if name.startswith(f"{prefix}/source/"):
            source, _, figure = name.removeprefix(f"{prefix}/source/").rpartition("/")
            sets.setdefault(source, {})[figure] = value
    return {
        source: {
            "n": int(figures["problems"]),
            "mean": figures["pass@1"],
            "standard_error": figures["pass@1_se"],
            "figures": figures,
        }
        for source, figures in sets.items()
    }


def mean_of_sets(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The mean of the sets' means, each set counted once, and its standard error.

    m = Σ_s m_s / S,   SE = √(Σ_s SE_s²) / S
    """
    squares = math.fsum(entry["standard_error"] ** 2 for entry in sets.values())
    return {
        "mean": math.fsum(entry["mean"] for entry in sets.values()) / len(sets),
        "standard_error": math.sqrt(squares) / len(sets),
    }


def report_results(folder: Path, results: dict[str, Any]) -> str:
    """Write ``results.json`` and return the tables for the terminal.

    Args:
        folder: the run's.
        results: ``command``, ``model``, ``checkpoint`` (None for the policy as it was loaded),
            ``step`` (of the optimizer, when the checkpoint was written), ``decoding``, ``metrics``
            and the ``sets`` of :func:`set_results`.
    """
    sets = results["sets"]
    if sets:
        results = {**results, "mean_of_sets": mean_of_sets(sets)}
    path = write_results(folder, results)
    whole = {name: v for name, v in results["metrics"].items() if "/source/" not in name}
    header = [results["command"], f"step {results['step']}"]
    tables = [
        format_table(header, [[name, _shown(value)] for name, value in sorted(whole.items())])
    ]
    if sets:
        tables.append(_table_of_sets(sets, results["mean_of_sets"]))
    checkpoint = results["checkpoint"] or f"none, {results['model']} as it was loaded"
    return "\n\n".join([*tables, f"checkpoint: {checkpoint}\nwritten to: {shown_path(path)}"])


def _table_of_sets(sets: Mapping[str, Mapping[str, Any]], mean: Mapping[str, float]) -> str:
    first = next(iter(sets.values()))["figures"]
    more = [name for name in first if not name.endswith(_NOT_SHOWN) and name not in _OWN_COLUMNS]
    rows = [
        [
            name,
            str(entry["n"]),
            _with_error(entry),
            *(_shown(entry["figures"].get(figure, math.nan)) for figure in more),
        ]
        for name, entry in sets.items()
    ]
    if len(sets) > 1:
        rows.append([f"mean of {len(sets)} sets", "", _with_error(mean), *[""] * len(more)])
    return format_table(["set", "n", "right ± standard error", *more], rows)


def _with_error(entry: Mapping[str, float]) -> str:
    return f"{entry['mean']:.4f} ± {entry['standard_error']:.4f}"


def write_results(folder: Path, results: dict[str, Any]) -> Path:
    """Write ``results.json``, strict JSON in which NaN is null, whole or not at all."""
    path = folder / "results.json"
    unfinished = path.with_suffix(".json.tmp")
    unfinished.write_text(
        json.dumps(strict_json(results), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        encoding="utf-8",
    )
    unfinished.replace(path)
    return path


def _shown(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4f}"
