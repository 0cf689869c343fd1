"""Draws a group's process tree. matplotlib is needed only here, and only when drawing."""

import importlib.util
import io
import math
import warnings
from typing import TYPE_CHECKING, Any

from lgrpo_callbacks.tables import shorten
from lgrpo_callbacks.tree_layout import GAP, Layout, PlacedLeaf, PlacedNode, lay_out
from lgrpo_callbacks.tree_record import TreeRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Vermillion, grey, blue: told apart with every kind of colour blindness (Okabe & Ito, 2008); grey
# and not white in the middle, as the lines lie on white.
_COLOURS = ("#D55E00", "#BFBFBF", "#0072B2")
_TEXT, _FAINT = "#1A1A1A", "#767676"
# The first comes with matplotlib; the others have what it lacks and are used where installed.
_FONTS = ("DejaVu Sans Mono", "Noto Sans Mono CJK SC", "Noto Sans CJK SC", "WenQuanYi Zen Hei")
_FONT_SIZE, _SMALL = 7.0, 5.5  # points
_DPI = 150
_CHARACTER = 9 * 72 / _DPI  # points, its width in this font: 0.602 em, rounded up to whole pixels
_LANE = 24.0  # points
_THINNEST, _THICKEST = 1.2, 9.0  # points, lines of one completion and of the whole group
_MARGIN = 2.0  # characters
_NARROWEST = 84.0  # characters, what the header takes
_HEADER, _FOOTER = 2.6, 0.9  # lanes
_COLUMNS = 32.0  # characters, for the figures of the completions


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def picture_png(record: TreeRecord) -> bytes:
    """Return the picture of a process tree as a PNG file.

    Steps are lines from left to right that branch where completions part: as wide as their process
    set is large, coloured by step advantage, with the text above. At the right end stand reward,
    advantage and length of each completion.
    """
    figure = draw_tree(record)
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A character that the font does not have is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()


def draw_tree(record: TreeRecord) -> "Figure":
    """Return the picture of a process tree as a figure of its own, outside of pyplot."""
    from matplotlib.figure import Figure

    layout = lay_out(record)
    width = max(layout.width + GAP + _COLUMNS, _NARROWEST) + 2 * _MARGIN  # characters
    lanes = max(len(layout.leaves), 1)
    height = (lanes + _HEADER + _FOOTER) * _LANE
    figure = Figure(figsize=(width * _CHARACTER / 72, height / 72), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-_MARGIN, width - _MARGIN)
    axes.set_ylim(lanes - 0.5 + _FOOTER, -0.5 - _HEADER)
    painter = _Painter(axes, record, layout)
    painter.paint()
    return figure


class _Painter:
    """Draws one tree into axes measured in characters and lanes."""

    def __init__(self, axes: "Axes", record: TreeRecord, layout: Layout) -> None:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.font_manager import fontManager

        advantages = [abs(node["advantage"]) for node in record["nodes"]]
        advantages += [abs(leaf["advantage"]) for leaf in record["leaves"]]
        finite = [value for value in advantages if math.isfinite(value)]
        self.largest = max(finite, default=0.0)
        self._colours = LinearSegmentedColormap.from_list("advantage", _COLOURS)
        installed = set(fontManager.get_font_names())
        self._fonts = [font for font in _FONTS if font in installed]
        self.axes, self.record, self.layout = axes, record, layout

    def colour(self, advantage: float) -> Any:  # noqa: ANN401 - matplotlib's colour
        """The colour of a step advantage; by its square root, so that small ones differ too."""
        share = advantage / (self.largest or 1.0)
        return self._colours(0.5 + 0.5 * math.copysign(abs(share) ** 0.5, share))

    def paint(self) -> None:
        """Draw everything; lines first, so that no text lies under one."""
        by_id = {placed.node["id"]: placed for placed in self.layout.nodes}
        for placed in self.layout.nodes:
            parent = placed.node["parent"]
            self._step(placed, None if parent is None else by_id[parent])
        for leaf in self.layout.leaves:
            self._leaf(leaf)
        self._header()

    def _step(self, placed: PlacedNode, parent: PlacedNode | None) -> None:
        style: dict[str, Any] = {
            "color": self.colour(placed.node["advantage"]),
            "linewidth": self._line_width(placed.node["set_size"]),
        }
        if parent is not None:
            self._curve(parent.right, parent.y, placed.left, placed.y, zorder=1, **style)
        self.axes.plot(
            [placed.left, placed.right], [placed.y] * 2, solid_capstyle="butt", zorder=2, **style
        )
        above = (style["linewidth"] / 2 + 1.5) / _LANE
        self._write(placed.left, placed.y - above, placed.text)
        if placed.node["set_size"] > 1:
            below = (style["linewidth"] / 2 + 1.0) / _LANE
            self._write(placed.left, placed.y + below, self._caption(placed), small=True, va="top")

    def _caption(self, placed: PlacedNode) -> str:
        node = placed.node
        size = f"×{node['set_size']}"
        full = f"{size}  reward {node['mean_reward']:.2f}  Â {_signed(node['advantage'])}"
        short = f"{size} Â {_signed(node['advantage'])}"
        room = (placed.right - placed.left) * _FONT_SIZE / _SMALL
        return next((text for text in (full, short) if len(text) <= room), size)

    def _leaf(self, placed: PlacedLeaf) -> None:
        left = self.layout.width + GAP
        leaf = placed.leaf
        if placed.end is not None:
            straight: dict[str, Any] = {
                "color": "#D0D0D0",
                "linewidth": 0.7,
                "linestyle": (0, (1, 2)),
                "zorder": 0,
            }
            start = placed.end.right
            if placed.end.y != placed.y:  # several completions end here
                self._curve(start, placed.end.y, start + GAP, placed.y, **straight)
                start += GAP
            self.axes.plot([start, left - 1], [placed.y] * 2, **straight)
        reward = math.nan if leaf["reward"] is None else leaf["reward"]
        colour = self.colour(leaf["advantage"])
        self.axes.plot([left], [placed.y], marker="s", markersize=5, color=colour)
        figures = f"{reward:7.2f} {_signed(leaf['advantage']):>7} {leaf['length']:6d}"
        notes = ["cut off"] * leaf["truncated"] + ["not in the loss"] * (placed.end is None)
        self._write(left + 0.5, placed.y, figures, va="center")
        if notes:
            self._write(left + 24, placed.y, ", ".join(notes), small=True, va="center")

    def _header(self) -> None:
        record, top = self.record, -0.5 - _HEADER
        title = (
            f"step {record['step']}   group {record['group']}   "
            f"{record['group_size']} completions   reward {record['mean_reward']:.2f} "
            f"± {record['std_reward']:.2f}"
        )
        self._write(0, top + 0.25, title, va="top", weight="bold")
        room = int(max(self.layout.width + GAP + _COLUMNS, _NARROWEST)) - 8
        self._write(0, top + 0.75, "prompt  " + shorten(record["prompt"], room), va="top")
        left = self.layout.width + GAP
        self._write(left + 0.5, -0.55, f"{'reward':>7} {'adv.':>7} {'tokens':>6}", small=False)
        self._scale(top + 1.35)

    def _scale(self, y: float) -> None:
        """A scale of the step advantages' colours."""
        steps, start, length = 24, 7.0, 12.0
        self._write(0, y, f"{-self.largest:+.2f}", va="center", small=True)
        for index in range(steps):
            left = start + length * index / steps - 1.5
            advantage = (2 * (index + 0.5) / steps - 1) * (self.largest or 1.0)
            self.axes.plot(
                [left, left + length / steps],
                [y, y],
                color=self.colour(advantage),
                linewidth=5,
                solid_capstyle="butt",
            )
        told = f"{self.largest:+.2f} step advantage     line width, ×: completions on the step"
        self._write(start + length - 1, y, told, va="center", small=True)

    def _curve(self, x0: float, y0: float, x1: float, y1: float, **style: Any) -> None:  # noqa: ANN401
        """An S from one point to the other, level at both ends."""
        steps = [index / 16 for index in range(17)]
        rise = [y0 + (y1 - y0) * (3 * step**2 - 2 * step**3) for step in steps]
        run = [x0 + (x1 - x0) * step for step in steps]
        self.axes.plot(run, rise, solid_capstyle="butt", **style)

    def _line_width(self, set_size: int) -> float:
        most = max(self.record["group_size"], 2)
        return _THINNEST + (_THICKEST - _THINNEST) * (set_size - 1) / (most - 1)

    def _write(
        self,
        x: float,
        y: float,
        text: str,
        small: bool = False,
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.axes.text(
            x,
            y,
            text,
            fontfamily=self._fonts,
            fontsize=_SMALL if small else _FONT_SIZE,
            color=_FAINT if small else _TEXT,
            parse_math=False,  # a dollar is a dollar
            **{"va": "bottom", **options},
        )


def _signed(value: float) -> str:
    return f"{value:+.2f}"
