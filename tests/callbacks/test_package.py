import doctest
import importlib
import os
import pkgutil
import subprocess
import sys

import pytest

import lgrpo_callbacks

MODULES = [
    info.name for info in pkgutil.walk_packages(lgrpo_callbacks.__path__, "lgrpo_callbacks.")
]
WITH_EXAMPLES = [
    "lgrpo_callbacks.completion_logger",
    "lgrpo_callbacks.export_huggingface",
    "lgrpo_callbacks.jsonl",
    "lgrpo_callbacks.kl_tracker",
    "lgrpo_callbacks.metrics.majority",
    "lgrpo_callbacks.metrics.masked_means",
    "lgrpo_callbacks.metrics.pass_at_k",
    "lgrpo_callbacks.metrics.process_tree",
    "lgrpo_callbacks.process_tree_monitor",
    "lgrpo_callbacks.reference_sync",
    "lgrpo_callbacks.reward_evaluator",
]

# Neither package can be imported, nor does any metadata say that it is installed: torchmetrics
# imports transformers when it is.
ALONE = """
import importlib.metadata, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lgrpo_lightning", "transformers"):
            raise ModuleNotFoundError(name)

from_name = importlib.metadata.Distribution.from_name

def hide(name):
    if name in ("lgrpo-lightning", "lgrpo_lightning", "transformers"):
        raise importlib.metadata.PackageNotFoundError(name)
    return from_name(name)

importlib.metadata.Distribution.from_name = hide
sys.meta_path.insert(0, Missing())

from tests.callbacks.boring import make_trainer
from tests.callbacks.trees import TreePolicy
from lgrpo_callbacks import CompletionLogger, KLTracker, ProcessTreeMonitor, RewardEvaluator

callbacks = [KLTracker(), RewardEvaluator(), CompletionLogger(), ProcessTreeMonitor(4)]
make_trainer(sys.argv[1], *callbacks, limit_val_batches=1.0).fit(TreePolicy())
assert not {"lgrpo_lightning", "transformers"} & set(sys.modules)
"""


def test_the_callbacks_run_without_lgrpo_lightning_and_transformers(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried > 0
    assert failed == 0


def test_no_example_is_forgotten():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        name
        for name in MODULES
        if any(test.examples for test in finder.find(importlib.import_module(name)))
    ]
    assert sorted(found) == sorted(WITH_EXAMPLES)
