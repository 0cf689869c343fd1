"""Tables of the map of where λ helps, in Markdown."""

import json
from collections import Counter
from pathlib import Path

from lgrpo_lightning.study.results import Record
from lgrpo_lightning.study.tables import markdown_table
from lgrpo_lightning.study.trap_picture import draw_map
from lgrpo_lightning.study.trap_table import CURVE_EVERY, TrapTable

_METHODS = ("GRPO", "λ-GRPO")


def write_report(table: TrapTable, folder: Path) -> str:
    """Write ``map.png``, ``map.md`` and ``map.json``, and return the tables."""
    text = "\n\n".join(
        [
            "Share of runs solved, with 95 % intervals",
            _map(table),
            f"Other temperatures, group size {table.contrast_group_size}",
            _temperatures(table),
            f"Steps until half of the runs are solved, group size {table.contrast_group_size}",
            _speed(table),
            edges(table),
        ]
    )
    (folder / "map.md").write_text(text + "\n", encoding="utf-8")
    (folder / "map.json").write_text(
        json.dumps(table.records, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    draw_map(table, folder / "map.png")
    return text


def _map(table: TrapTable) -> str:
    rows = [
        [optimizer, str(depth), method]
        + [table.share(method, optimizer, depth, size).text() for size in table.group_sizes]
        for optimizer in table.optimizers
        for depth in table.depths
        for method in _METHODS
    ]
    head = ["optimizer", "depth", "method", *(f"G = {size}" for size in table.group_sizes)]
    return markdown_table(head, rows)


def _temperatures(table: TrapTable) -> str:
    size = table.contrast_group_size
    rows = [
        [optimizer, str(depth), method]
        + [table.share(method, optimizer, depth, size, tau).text() for tau in table.temperatures]
        for optimizer in table.optimizers
        for depth in table.depths
        for method in _METHODS
    ]
    head = ["optimizer", "depth", "method", *(f"τ = {tau}" for tau in table.temperatures)]
    return markdown_table(head, rows)


def _speed(table: TrapTable) -> str:
    rows = []
    for optimizer in table.optimizers:
        for depth in table.depths:
            cells = [table.record(method, optimizer, depth) for method in table.weightings]
            free = [table.record(method, optimizer, depth, easy=0.0) for method in _METHODS]
            rows.append(
                [optimizer, str(depth), *(_half_time(r) for r in cells), *map(_half_time, free)]
            )
    head = ["optimizer", "depth", *table.weightings]
    return markdown_table([*head, *(f"{method}, no trap" for method in _METHODS)], rows)


def _half_time(record: Record) -> str:
    """First step at which half of the runs are solved, to the resolution of the curves."""
    for index, share in enumerate(record["curve"], start=1):
        if share >= 0.5:
            return str(index * CURVE_EVERY)
    return f"– ({record['curve'][-1]:.2f} solved)"


def edges(table: TrapTable) -> str:
    """In how many cells the best learning rate may lie beyond those that were tried."""
    edges = table.at_edge()
    if not edges:
        return "No best learning rate was the smallest or the largest that was tried."
    counts = Counter(f"{r['cell']['optimizer']}, depth {r['cell']['trap']['depth']}" for r in edges)
    names = "; ".join(f"{place}: {count}" for place, count in counts.items())
    return (
        f"In {len(edges)} of {len(table.records)} cells the best learning rate was the smallest or "
        f"the largest that was tried, and neither all runs nor none were solved ({names})."
    )
