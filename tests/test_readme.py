"""What the README says can be run can be run."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_example_in_python_trains(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (example,) = [block for block in blocks if ".fit(model, data)" in block]
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    (tmp_path / "example.py").write_text(example.replace("max_steps=10", "max_steps=2"))
    run = [sys.executable, "example.py"]
    finished = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    assert "`max_steps=2` reached" in finished.stderr + finished.stdout
