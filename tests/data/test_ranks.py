import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_are_dealt_together_what_one_is_dealt_alone(tmp_path):
    subprocess.run(
        [sys.executable, Path(__file__).with_name("two_processes.py"), tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=200,
    )
    alone, first, second = (
        json.loads((tmp_path / name).read_text()) for name in ("1/0.json", "2/0.json", "2/1.json")
    )
    together = [
        [*left[:3], left[3] + right[3]]
        for left, right in zip(first["dealt"], second["dealt"], strict=True)
    ]
    assert len(together) == 2 * 2 * 3
    assert together == alone["dealt"]
    assert alone["evaluated"] == [*range(7)] * 2
    assert sorted(first["evaluated"] + second["evaluated"]) == sorted(alone["evaluated"])
