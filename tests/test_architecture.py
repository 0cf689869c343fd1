"""Holds the arrows of docs/architecture.md: which room may import what."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lgrpo_lightning"
CALLBACKS = ROOT / "callbacks" / "lgrpo_callbacks"
MAX_LINES = 300

PURE = {"tree", "objective", "metrics"}
LIBRARY_ROOMS = {"policy", "rollout", "rewards", "data"}
# What module.py is made of. Here the rooms meet; no room imports any of it.
MODULE_PARTS = {
    "collect",
    "fsdp2",
    "hyperparameters",
    "optimization",
    "policy_module",
    "preflight",
    "resampling",
    "resuming",
    "rollout_maker",
    "schedule",
    "scorer",
    "step_log",
}

# Room → the other rooms it may import.
ROOMS: dict[str, set[str]] = {
    "tree": set(),
    "objective": {"tree"},
    "metrics": {"tree", "objective"},
    "rewards": set(),
    "policy": PURE,
    "rollout": PURE | {"policy"},
    "data": PURE,
    "memory": PURE | {"policy"},
    "checkpoint_io": set(),
    **dict.fromkeys(sorted(MODULE_PARTS), PURE | LIBRARY_ROOMS | MODULE_PARTS),
    "module": PURE | LIBRARY_ROOMS | MODULE_PARTS,
    "report": set(),
    "study": PURE,
    "cli": PURE
    | LIBRARY_ROOMS
    | {"checkpoint_io", "fsdp2", "memory", "module", "preflight", "report", "study"},
    "__main__": {"cli"},
}

# Room → the libraries it may import besides the standard library.
LIBRARIES: dict[str, set[str]] = {
    "tree": {"torch"},
    "objective": {"torch"},
    "metrics": {"torch", "torchmetrics"},
    "rewards": {"math_verify"},
    "policy": {"torch", "transformers", "peft"},
    "rollout": {"torch", "transformers", "vllm", "safetensors"},
    "data": {"torch", "datasets", "lightning", "transformers", "numpy", "pyarrow", "jinja2"},
    "checkpoint_io": {"torch", "lightning"},
    **{part: {"torch", "lightning", "transformers"} for part in [*MODULE_PARTS, "module"]},
    "memory": {"torch", "transformers"},
    "report": {"yaml"},
    "study": {"torch", "transformers", "tokenizers", "jsonargparse", "yaml", "matplotlib"},
    "cli": {"torch", "lightning", "transformers", "jsonargparse", "lgrpo_callbacks"},
    "__main__": set(),
}
# matplotlib and rich are optional there and imported only in the functions that draw.
CALLBACK_LIBRARIES = {"torch", "torchmetrics", "lightning", "matplotlib", "rich"}


def room_files(room: str) -> list[Path]:
    """Source files of a room, which is a folder or a single module."""
    folder = PACKAGE / room
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{room}.py"]
    assert files, f"lgrpo_lightning/{room} holds no module"
    return files


def imports(files: list[Path]) -> Iterator[list[str]]:
    """Each imported name, split at its dots: at any depth of the files, types-only ones too."""
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno}: write the import in full"
                yield from ([*node.module.split("."), alias.name] for alias in node.names)


def libraries(files: list[Path]) -> set[str]:
    """Imported top-level packages that are not in the standard library."""
    return {name[0] for name in imports(files)} - set(sys.stdlib_module_names)


def run_alone(code: str, cwd: Path) -> None:
    """Run code in a fresh interpreter that finds both packages by path; fail if it raises."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "callbacks")])
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_every_room_is_known():
    found = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert found - {"__init__", "__pycache__"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_rooms_below_it(room):
    names = [name for name in imports(room_files(room)) if name[0] == "lgrpo_lightning"]
    used = {name[1] if len(name) > 1 else "the whole package" for name in names}
    assert used - {room, "__version__"} <= ROOMS[room]


@pytest.mark.parametrize("room", ROOMS)
def test_room_imports_only_its_libraries(room):
    assert libraries(room_files(room)) - {"lgrpo_lightning"} <= LIBRARIES[room]


def test_callbacks_import_only_their_libraries():
    files = sorted(CALLBACKS.rglob("*.py"))
    assert files
    assert libraries(files) - {"lgrpo_callbacks"} <= CALLBACK_LIBRARIES


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("lgrpo_lightning", {"torch", "transformers", "lightning", "datasets"}),
        (
            "lgrpo_lightning.tree, lgrpo_lightning.objective",
            {"transformers", "lightning", "datasets"},
        ),
        ("lgrpo_lightning.rewards", {"torch", "transformers", "lightning", "datasets"}),
        ("lgrpo_lightning.report", {"torch", "transformers", "lightning", "lgrpo_callbacks"}),
    ],
)
def test_import_stays_light(modules, unwanted, tmp_path):
    run_alone(
        f"import sys, {modules}\n"
        f"loaded = {unwanted!r} & set(sys.modules)\n"
        f"assert not loaded, f'also loads {{loaded}}'",
        tmp_path,
    )


def test_callbacks_work_without_this_package_and_transformers(tmp_path):
    # torchmetrics itself loads transformers where it is installed, so it comes first.
    run_alone(
        "import importlib, pkgutil, sys\n"
        "import lightning.pytorch, torchmetrics\n"
        "for name in ['lgrpo_lightning', *sys.modules]:\n"
        "    if name.split('.')[0] in {'lgrpo_lightning', 'transformers'}:\n"
        "        sys.modules[name] = None\n"
        "sys.modules['transformers'] = None\n"
        "import lgrpo_callbacks\n"
        "for found in pkgutil.walk_packages(lgrpo_callbacks.__path__, 'lgrpo_callbacks.'):\n"
        "    importlib.import_module(found.name)\n"
        "missing = [n for n in lgrpo_callbacks.__all__ if not hasattr(lgrpo_callbacks, n)]\n"
        "assert not missing, missing\n",
        tmp_path,
    )


def test_files_stay_short():
    files = [*PACKAGE.rglob("*.py"), *CALLBACKS.rglob("*.py")]
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for file in files
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}
