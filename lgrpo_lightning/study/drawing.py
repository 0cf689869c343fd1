"""What the studies' pictures have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgrpo_lightning.study.intervals import Estimate

COLOURS = {"λ-GRPO": "#0f6e84", "GRPO": "#c4622d"}
OTHER_COLOURS = ("#8a8a8a", "#6a4c93")
_DPI = 150


def require_matplotlib() -> None:
    """Find out before the first run that the pictures cannot be drawn.

    Raises:
        ValueError: if matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "a study draws pictures with matplotlib: pip install matplotlib, or install "
            "lgrpo-lightning[dev]"
        ) from error


def new_figure(width: float, height: float) -> Any:  # noqa: ANN401 - matplotlib's Figure
    """A figure of so many inches, without pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Any, path: Path) -> None:  # noqa: ANN401 - matplotlib's Figure
    """Write a PNG."""
    figure.savefig(path, dpi=_DPI)


def colour(name: str, names: Sequence[str]) -> str:
    """The colour of a method, the same in all pictures."""
    others = [other for other in names if other not in COLOURS]
    return COLOURS[name] if name in COLOURS else OTHER_COLOURS[others.index(name)]


def band(
    axes: Any,  # noqa: ANN401 - matplotlib's Axes
    places: Sequence[float],
    estimates: Sequence[Estimate],
    label: str,
    line_colour: str,
    **line: Any,  # noqa: ANN401
) -> None:
    """A curve with its interval as a band."""
    axes.plot(places, [e.value for e in estimates], color=line_colour, label=label, **line)
    axes.fill_between(
        places,
        [e.low for e in estimates],
        [e.high for e in estimates],
        color=line_colour,
        alpha=0.18,
        linewidth=0,
    )


def tidy(axes: Any) -> None:  # noqa: ANN401 - matplotlib's Axes
    """Leave out the lines that say nothing."""
    axes.spines[["top", "right"]].set_visible(False)
