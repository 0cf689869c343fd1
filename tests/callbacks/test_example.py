"""The project in examples/, in an interpreter without lgrpo_lightning and transformers."""

import ast
import csv
from pathlib import Path

import pytest

from lgrpo_callbacks import read_jsonl
from tests.callbacks.alone import run_alone

EXAMPLE = Path(__file__).parents[2] / "examples" / "reinforce"
RUN = """
import runpy
sys.argv = ["train", "--root", sys.argv[1], "--steps", "100"]
runpy.run_module("examples.reinforce.train", run_name="__main__")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("example")
    return root, run_alone(RUN, root)


def test_it_imports_only_the_callbacks_torch_and_lightning():
    names = set()
    for file in EXAMPLE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    assert names == {"argparse", "lgrpo_callbacks", "lightning", "random", "torch", "typing"}


def test_it_learns_and_says_so(run):
    root, printed = run
    assert "eval/pass@1" in printed
    with (root / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    rewards = [float(row["eval/reward"]) for row in rows if row["eval/reward"]]
    assert rewards[0] < 0.3
    assert rewards[-1] > 0.6


def test_every_callback_logged_and_wrote(run):
    root, printed = run
    with (root / "metrics.csv").open() as file:
        names = set(next(csv.DictReader(file)))
    assert {"kl/sampler", "kl/entropy", "eval/maj@4", "tree/path_depth"} <= names
    assert printed.count("completion") >= 1  # the table in the terminal
    assert len(read_jsonl(root / "completions" / "rank-0.jsonl")) == 100 * 16 * 16
    assert [tree["step"] for tree in read_jsonl(root / "trees" / "rank-0.jsonl")] == [100, 100]
    assert (root / "trees" / "step-00000100.png").is_file()
    assert len(list((root / "evaluations").glob("*.jsonl"))) == 2


def test_its_readme_is_short():
    assert len((EXAMPLE / "README.md").read_text(encoding="utf-8").splitlines()) <= 12
