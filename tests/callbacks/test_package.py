import doctest
import importlib
import pkgutil

import pytest

import lgrpo_callbacks
from tests.callbacks.alone import run_alone

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

RUN = """
import sys
from tests.callbacks.boring import make_trainer
from tests.callbacks.trees import TreePolicy
from lgrpo_callbacks import CompletionLogger, KLTracker, ProcessTreeMonitor, RewardEvaluator

callbacks = [KLTracker(), RewardEvaluator(), CompletionLogger(), ProcessTreeMonitor(4)]
make_trainer(sys.argv[1], *callbacks, limit_val_batches=1.0).fit(TreePolicy())
"""


def test_the_callbacks_run_without_lgrpo_lightning_and_transformers(tmp_path):
    run_alone(RUN, tmp_path)


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
