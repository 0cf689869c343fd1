"""The page: one HTML file with its style, its scripts and the runs' data inside.

Data are JSON in a script element that is not executed. All of it that HTML could take for markup is
escaped, and the page's scripts put it into the document as text only. The page's security policy
lets no other script run and nothing be loaded.
"""

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from pathlib import Path

from lgrpo_lightning import __version__
from lgrpo_lightning.report.json_text import to_json
from lgrpo_lightning.report.run import Run

_STATIC = Path(__file__).parent / "static"
_LIBRARY = _STATIC / "vendor" / "uplot"
_PLACE = re.compile(r"\{\{(\w+)\}\}")
_SCRIPTS = (
    "dom.js",
    "format.js",
    "runs.js",
    "panels.js",
    "chart.js",
    "curves.js",
    "tree_layout.js",
    "tree_drawing.js",
    "tree_step.js",
    "trees.js",
    "completions.js",
    "overview.js",
    "main.js",
)
_STYLES = ("page.css", "curves.css", "trees.css", "completions.css")


def render_page(runs: Sequence[Run], mark: str) -> bytes:
    """Return the page of the runs.

    Args:
        runs: in the order of their colours.
        mark: kept in the page, so that a later report knows whose it is.
    """
    script = _script()
    style = "\n".join([_read(_LIBRARY / "uPlot.min.css"), *(_read(_STATIC / s) for s in _STYLES)])
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_digest(script)}'; "
        f"style-src '{_digest(style)}'; base-uri 'none'; form-action 'none'"
    )
    names = ", ".join(run.name for run in runs)
    texts = {
        "title": html.escape(names),
        "policy": policy,
        "mark": html.escape(mark),
        "generator": f"lgrpo-lightning {__version__}",
        "licence": _read(_LIBRARY / "LICENSE").strip(),
        "style": style,
        "script": script,
    }
    content = {
        name: text.encode("utf-8", errors="backslashreplace") for name, text in texts.items()
    }
    content["data"] = to_json({"runs": [vars(run) for run in runs]})
    parts = _PLACE.split(_read(_STATIC / "page.html"))
    # Between two pieces of the page's frame stands the name of what belongs there.
    return b"".join(
        content[part] if place % 2 else part.encode() for place, part in enumerate(parts)
    )


def _script() -> str:
    """The chart library, then the page's own scripts in one scope."""
    own = "\n".join(_read(_STATIC / name) for name in _SCRIPTS)
    library = _read(_LIBRARY / "uPlot.iife.min.js")
    return f'{library}\n(() => {{\n"use strict";\n{own}\n}})();\n'


def _digest(text: str) -> str:
    """The hash by which the security policy knows an element's text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
