"""The language-model table of arXiv 2509.21154, from evaluations made here, next to the paper's.

Takes the ``results.json`` that ``lgrpo test`` writes for each trained model (configs/paper, with
configs/benchmarks); which model, β and method it is of is read from the ``config.yaml`` beside it.

    python -m benchmarks.paper_table runs/openrs-*/*-test/results.json --json table.json

Every share has its standard error over problems. The paper's are those of its printed share p of n
problems, √(p(1 − p)/(n − 1)).
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lgrpo_lightning.study.tables import markdown_table

SETS = {  # name in configs/benchmarks → title, problems
    "aime24": ("AIME24", 30),
    "math500": ("MATH-500", 500),
    "amc23": ("AMC23", 40),
    "minerva": ("Minerva", 272),
    "olympiadbench": ("OlympiadBench", 675),
}
MODELS = {"qwen": "Qwen", "llama": "Llama"}  # part of the path → the paper's short name
BASE, GRPO, LAMBDA = "base", "GRPO", "λ-GRPO"


@dataclass(frozen=True)
class Setting:
    """A row of the table.

    Attributes:
        model: the paper's short name, or the path of another model.
        kl_coef: β; 0 for the model before training.
        method: "base", "GRPO" or "λ-GRPO".
    """

    model: str
    kl_coef: float
    method: str

    @property
    def cells(self) -> list[str]:
        """The row's head."""
        return [self.model, "–" if self.method == BASE else f"{self.kl_coef:g}", self.method]


@dataclass(frozen=True)
class Share:
    """A share of right answers and its standard error."""

    value: float
    error: float

    @property
    def text(self) -> str:
        """For the table."""
        return f"{self.value:.4f} ± {self.error:.4f}"

    def minus(self, other: "Share") -> "Share":
        """The difference, its error as of two independent samples, which is on the safe side."""
        return Share(self.value - other.value, math.hypot(self.error, other.error))


Row = dict[str, Share]

# In the order of SETS.
PAPER: dict[Setting, Sequence[float]] = {
    Setting("Qwen", 0, BASE): (0.2000, 0.8300, 0.7500, 0.2978, 0.5096),
    Setting("Qwen", 0, GRPO): (0.3333, 0.7660, 0.6250, 0.2500, 0.4444),
    Setting("Qwen", 0, LAMBDA): (0.3667, 0.8460, 0.7500, 0.2904, 0.5348),
    Setting("Qwen", 0.04, GRPO): (0.3000, 0.8660, 0.7500, 0.2610, 0.5200),
    Setting("Qwen", 0.04, LAMBDA): (0.4000, 0.8340, 0.8000, 0.2978, 0.5378),
    Setting("Llama", 0, BASE): (0.0000, 0.2280, 0.0750, 0.0478, 0.0563),
    Setting("Llama", 0, GRPO): (0.0000, 0.2300, 0.0750, 0.0551, 0.0607),
    Setting("Llama", 0, LAMBDA): (0.0000, 0.2620, 0.1250, 0.0515, 0.0622),
    Setting("Llama", 0.04, GRPO): (0.0000, 0.2180, 0.1750, 0.0515, 0.0533),
    Setting("Llama", 0.04, LAMBDA): (0.0333, 0.2560, 0.0750, 0.0735, 0.0489),
}


def paper_row(setting: Setting) -> Row:
    """The paper's shares; none for a setting it does not have."""
    counts = [problems for _, problems in SETS.values()]
    shares = zip(SETS, PAPER.get(setting, ()), counts, strict=False)
    return {name: Share(p, math.sqrt(p * (1 - p) / (n - 1))) for name, p, n in shares}


def read_results(path: Path) -> tuple[Setting, Row]:
    """What one evaluation is of, and its shares.

    Raises:
        ValueError: if the file holds no evaluation of one of the sets, or no config lies beside it.
    """
    results = json.loads(path.read_text(encoding="utf-8"))
    known = [name for name in SETS if name in results.get("sets", {})]
    if not known:
        raise ValueError(f"{path} has none of the sets {list(SETS)}; see configs/benchmarks")
    config = path.with_name("config.yaml")
    if not config.is_file():
        raise ValueError(f"{config} is missing, which says what was evaluated")
    model = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]
    name = model["policy"]["path"]
    short = next((title for part, title in MODELS.items() if part in name.lower()), name)
    setting = Setting(short, 0, BASE)
    if results["checkpoint"] is not None:
        method = LAMBDA if model["loss"]["process_set_scaling"] else GRPO
        setting = Setting(short, float(model["loss"]["kl_coef"]), method)
    entries: dict[str, Any] = {name: results["sets"][name] for name in known}
    return setting, {
        name: Share(entry["mean"], math.nan if (e := entry["standard_error"]) is None else e)
        for name, entry in entries.items()
    }


def mean(row: Row) -> Share | None:
    """The mean over the five sets; None unless all are there."""
    if len(row) < len(SETS):
        return None
    errors = math.sqrt(math.fsum(share.error**2 for share in row.values()))
    return Share(math.fsum(share.value for share in row.values()) / len(SETS), errors / len(SETS))


def in_order(settings: Iterable[Setting]) -> list[Setting]:
    """As in the paper; what it does not have at the end."""
    places = list(PAPER)
    return sorted(settings, key=lambda s: places.index(s) if s in PAPER else len(places))


def cells(row: Row) -> list[str]:
    """A row's shares and their mean."""
    return [share.text if share else "–" for share in [*map(row.get, SETS), mean(row)]]


def differences(rows: dict[Setting, Row]) -> dict[tuple[str, float], Row]:
    """λ-GRPO minus GRPO, by model and β."""
    found = {}
    for setting in in_order(rows):
        ours = rows[setting]
        plain = rows.get(Setting(setting.model, setting.kl_coef, GRPO))
        if setting.method == LAMBDA and plain is not None:
            both = [name for name in SETS if name in ours and name in plain]
            found[setting.model, setting.kl_coef] = {n: ours[n].minus(plain[n]) for n in both}
    return found


def table(here: dict[Setting, Row]) -> str:
    """Both tables, each row followed by the paper's."""
    paper = {setting: paper_row(setting) for setting in here if setting in PAPER}
    titles = [title for title, _ in SETS.values()]
    shares = [
        [*setting.cells, source, *cells(rows[setting])]
        for setting in in_order(here)
        for source, rows in (("here", here), ("paper", paper))
        if setting in rows
    ]
    ours, theirs = differences(here), differences(paper)
    gains = [
        [model, f"{kl_coef:g}", source, *cells(rows[model, kl_coef])]
        for model, kl_coef in ours
        for source, rows in (("here", ours), ("paper", theirs))
        if (model, kl_coef) in rows
    ]
    text = markdown_table(["model", "β", "method", "", *titles, "mean"], shares)
    if gains:
        head = ["model", "β", "", *titles, "mean"]
        text += f"\n\nλ-GRPO − GRPO\n\n{markdown_table(head, gains)}"
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the evaluations and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", help="results.json of lgrpo test")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args(arguments)
    here: dict[Setting, Row] = {}
    for path in options.results:
        try:
            setting, row = read_results(path)
        except ValueError as error:
            sys.exit(f"paper_table: {error}")
        repeated = here.get(setting, {}).keys() & row.keys()
        if repeated:
            sys.exit(f"paper_table: {setting} has {sorted(repeated)} twice, again in {path}")
        here.setdefault(setting, {}).update(row)
    print(table(here))
    if options.json:
        figures = [
            {**vars(setting), "sets": {name: vars(share) for name, share in here[setting].items()}}
            for setting in in_order(here)
        ]
        options.json.write_text(json.dumps(figures, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
