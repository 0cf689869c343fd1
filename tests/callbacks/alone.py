"""An interpreter in which lgrpo_lightning and transformers cannot be imported."""

import os
import subprocess
import sys

# Neither package can be imported, nor does any metadata say that it is installed: torchmetrics
# imports transformers when it is.
_HIDE = """
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
"""

_CHECK = """
assert not {"lgrpo_lightning", "transformers"} & set(sys.modules)
"""


def run_alone(code, *arguments):
    """Run code there, fail with what it printed if it does, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", _HIDE + code + _CHECK, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
