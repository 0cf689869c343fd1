"""Every module says what it is, and the examples in docstrings are true."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    ".".join(file.relative_to(source_root).with_suffix("").parts).removesuffix(".__init__"): file
    for source_root, package in [
        (ROOT, "lgrpo_lightning"),
        (ROOT / "callbacks", "lgrpo_callbacks"),
    ]
    for file in sorted((source_root / package).rglob("*.py"))
}
WITH_EXAMPLES = [name for name, file in SOURCES.items() if ">>> " in file.read_text("utf-8")]


@pytest.mark.parametrize("module", SOURCES)
def test_module_has_a_docstring(module):
    assert ast.get_docstring(ast.parse(SOURCES[module].read_text("utf-8")))


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_are_true(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
