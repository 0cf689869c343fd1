"""Curves of methods compared on one task."""

from pathlib import Path

from lgrpo_lightning.study.drawing import band, colour, new_figure, save, tidy
from lgrpo_lightning.study.intervals import Estimate

Band = tuple[list[float], list[Estimate]]


def draw_curves(bands: dict[str, dict[str, Band]], path: Path) -> None:
    """Means over seeds with their intervals, over optimizer steps: four panels.

    Args:
        bands: title of the panel → method → steps and estimates.
        path: of the PNG.
    """
    figure = new_figure(9.6, 6.4)
    panels = figure.subplots(2, 2).flatten()
    for axes, (title, curves) in zip(panels, bands.items(), strict=True):
        for method, (steps, estimates) in curves.items():
            band(axes, steps, estimates, method, colour(method, list(curves)), linewidth=2)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("optimizer steps")
        tidy(axes)
    panels[0].legend(frameon=False, fontsize=9, loc="lower right")
    save(figure, path)
