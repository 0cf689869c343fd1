import doctest
import importlib
import pkgutil

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
