import os
import subprocess
import sys
from pathlib import Path

import pytest

from lgrpo_lightning.report.command import main
from tests.report.made_runs import make_run

ROOT = Path(__file__).parents[2]


def test_the_command_writes_the_report_and_tells_where(tmp_path, capsys):
    run = make_run(tmp_path / "run", steps=4, trees=2)
    main([str(run), "--out", str(tmp_path / "page.html")])
    assert (tmp_path / "page.html").is_file()
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'page.html'} (")


def test_a_mistake_is_told_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path)])
    assert stop.value.code.startswith(f"lgrpo: {tmp_path} holds no run")
    assert "\n" not in stop.value.code


def test_without_a_run_the_usage_is_shown(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "RUN_DIR" in capsys.readouterr().err


def test_the_program_reports_without_loading_torch(tmp_path):
    run = make_run(tmp_path / "run", steps=4, trees=2)
    code = (
        "import sys\n"
        "from lgrpo_lightning.cli import main\n"
        "main(sys.argv[1:])\n"
        "loaded = {'torch', 'lightning', 'transformers', 'jsonargparse'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "report", str(run)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "callbacks")])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(run / "report.html"))
