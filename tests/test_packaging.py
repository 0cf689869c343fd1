"""What is installed is what is in the tree, and what is imported is declared."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "lgrpo_lightning": ROOT / "lgrpo_lightning",
    "lgrpo_callbacks": ROOT / "callbacks" / "lgrpo_callbacks",
}
# Libraries whose import name is not the name they are installed by.
INSTALL_NAMES = {"yaml": "pyyaml", "math_verify": "math-verify"}

# Extras that the tests do without.
NOT_TESTED_WITH = {"4bit", "vllm", "wandb"}


def python_sources() -> list[Path]:
    return [file for folder in PACKAGES.values() for file in folder.rglob("*.py")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built offline from a copy so that no build folder is left in the tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in PACKAGES.values():
        target = source / folder.relative_to(ROOT)
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run(
        [sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=120
    )
    (path,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def requirements(wheel):
    """Names of all declared requirements, each with an extra it belongs to, or None."""
    (metadata,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    found = re.findall(
        r'^Requires-Dist: ([A-Za-z0-9_.-]+).*?(?:extra == "(\w+)")?$',
        wheel.read(metadata).decode(),
        re.MULTILINE,
    )
    return {name.lower(): extra or None for name, extra in found}


def test_wheel_holds_every_file_of_both_packages(wheel):
    expected = {
        f"{name}/{file.relative_to(folder).as_posix()}"
        for name, folder in PACKAGES.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert expected == {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_wheel_has_the_command_and_the_version_of_the_package(wheel):
    import lgrpo_lightning

    name = f"lgrpo_lightning-{lgrpo_lightning.__version__}.dist-info"
    assert f"{name}/METADATA" in wheel.namelist()
    entry_points = wheel.read(f"{name}/entry_points.txt").decode()
    assert "lgrpo = lgrpo_lightning.cli:main" in entry_points


def test_every_imported_library_is_declared(requirements):
    imported = set()
    for file in python_sources():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    imported -= set(sys.stdlib_module_names) | set(PACKAGES)
    assert {INSTALL_NAMES.get(name, name) for name in imported} <= set(requirements)


def test_constraints_pin_every_library_the_tests_run_with(requirements):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    # A local label (+cpu, +cu128) would tie everybody to one build.
    assert not [name for name, version in pins.items() if "+" in version]
    installed = {name for name, extra in requirements.items() if extra not in NOT_TESTED_WITH}
    # pip leaves setuptools out of its list of installed packages.
    assert installed - {"setuptools"} <= {name.lower().replace("_", "-") for name in pins}
