"""What ``lgrpo validate`` and ``lgrpo test`` leave behind: a table and ``results.json``."""

import json
import math
from pathlib import Path
from typing import Any

from lgrpo_callbacks.tables import format_table
from lgrpo_lightning.cli.run_folder import shown_path


def report_results(folder: Path, results: dict[str, Any]) -> str:
    """Write ``results.json`` and return the table for the terminal.

    Args:
        folder: the run's.
        results: ``command``, ``checkpoint`` (None for the policy as it was loaded), ``step`` (of
            the optimizer, when the checkpoint was written) and ``metrics``.
    """
    path = write_results(folder, results)
    rows = [[name, _shown(value)] for name, value in sorted(results["metrics"].items())]
    table = format_table([results["command"], f"step {results['step']}"], rows)
    checkpoint = results["checkpoint"] or "none, the policy as it was loaded"
    return f"{table}\n\ncheckpoint: {checkpoint}\nwritten to: {shown_path(path)}"


def write_results(folder: Path, results: dict[str, Any]) -> Path:
    """Write ``results.json``, strict JSON in which NaN is null, whole or not at all."""
    metrics = {
        name: value if math.isfinite(value) else None for name, value in results["metrics"].items()
    }
    path = folder / "results.json"
    unfinished = path.with_suffix(".json.tmp")
    unfinished.write_text(
        json.dumps({**results, "metrics": metrics}, indent=2, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )
    unfinished.replace(path)
    return path


def _shown(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4f}"
