"""The map of where λ helps as one picture: a column for each optimizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgrpo_lightning.study.drawing import band, colour, new_figure, save, tidy
from lgrpo_lightning.study.intervals import share_estimate
from lgrpo_lightning.study.trap_table import TrapTable

_TITLES = {
    "SGD": "SGD",
    "Adam": "Adam, weights shared by all nodes",
    "Adam, a weight per node": "Adam, a weight per node",
}


def draw_map(table: TrapTable, path: Path) -> None:
    """Depth × group size above, learning rate in the middle, temperature below."""
    columns = len(table.optimizers)
    figure = new_figure(4.2 * columns, 9.6)
    rows = figure.subplots(3, columns, squeeze=False, height_ratios=[1, 0.9, 0.9])
    for column, optimizer in enumerate(table.optimizers):
        _heat_map(rows[0][column], table, optimizer, legend=column == columns - 1)
        _learning_rates(rows[1][column], table, optimizer)
        _temperatures(rows[2][column], table, optimizer)
        rows[0][column].set_title(_TITLES[optimizer], fontsize=11)
        for axes in (rows[1][column], rows[2][column]):
            axes.set_ylim(-0.03, 1.03)
            tidy(axes)
    rows[1][0].set_ylabel("share of runs solved")
    rows[2][0].set_ylabel("share of runs solved")
    rows[1][0].legend(frameon=False, fontsize=8)
    save(figure, path)


def _heat_map(axes: Any, table: TrapTable, optimizer: str, legend: bool) -> None:  # noqa: ANN401
    """Difference of the shares solved, with both written into the cell."""
    grid = [
        [
            table.share("λ-GRPO", optimizer, depth, size).value
            - table.share("GRPO", optimizer, depth, size).value
            for size in table.group_sizes
        ]
        for depth in table.depths
    ]
    image = axes.imshow(grid, cmap="BrBG", vmin=-1, vmax=1, aspect="auto")
    for row, depth in enumerate(table.depths):
        for column, size in enumerate(table.group_sizes):
            ours = table.share("λ-GRPO", optimizer, depth, size).value
            plain = table.share("GRPO", optimizer, depth, size).value
            axes.text(
                column,
                row,
                f"λ {ours:.2f}\nGRPO {plain:.2f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if abs(ours - plain) > 0.6 else "black",
            )
    axes.set_xticks(range(len(table.group_sizes)), table.group_sizes)
    axes.set_yticks(range(len(table.depths)), table.depths)
    axes.set_xlabel("group size")
    if optimizer == table.optimizers[0]:
        axes.set_ylabel("depth of the trap, tokens")
    if legend:
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label("λ-GRPO − GRPO", fontsize=8)


def _learning_rates(axes: Any, table: TrapTable, optimizer: str) -> None:  # noqa: ANN401
    depth = table.middle_depth
    for weighting in table.weightings:
        tuning = table.tuning(weighting, optimizer, depth)
        runs = table.tuning_runs
        band(
            axes,
            [point["learning_rate"] for point in tuning],
            [share_estimate(round(point["solved"] * runs), runs) for point in tuning],
            weighting,
            colour(weighting, table.weightings),
            linewidth=1.8,
        )
    rates = [point["learning_rate"] for point in table.tuning("GRPO", optimizer, depth)]
    axes.set_xscale("log", base=2)
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel(f"learning rate (depth {depth}, group size {table.contrast_group_size})")


def _temperatures(axes: Any, table: TrapTable, optimizer: str) -> None:  # noqa: ANN401
    styles: Sequence[str] = (":", "-", "--")
    for depth, style in zip(table.depths, styles, strict=False):
        for weighting in ("λ-GRPO", "GRPO"):
            shares = [
                table.share(weighting, optimizer, depth, table.contrast_group_size, tau)
                for tau in table.temperatures
            ]
            axes.errorbar(
                table.temperatures,
                [share.value for share in shares],
                yerr=[
                    [share.value - share.low for share in shares],
                    [share.high - share.value for share in shares],
                ],
                color=colour(weighting, table.weightings),
                linestyle=style,
                capsize=2,
                label=f"depth {depth}" if weighting == "λ-GRPO" else None,
            )
    axes.set_xticks(table.temperatures)
    axes.set_xlabel(f"temperature (group size {table.contrast_group_size})")
    if optimizer == table.optimizers[0]:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0.0, 0.95))
