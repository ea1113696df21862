"""The table of defects names tests that exist; the example that was written for KerasTuner runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tests_that_the_table_names_exist():
    text = (ROOT / "docs" / "from-keras-tuner.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 25
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text()
    ]
    assert not missing


def test_the_program_that_was_written_for_keras_tuner_runs_unchanged(tmp_path):
    program = ROOT / "examples" / "keras_tuner_program.py"
    assert "manyfit" not in program.read_text().split('"""')[2]
    done = subprocess.run(
        [sys.executable, "-m", "manyfit.compat", str(program)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Default search space size: 2" in done.stdout and "Trial 6 Complete [00h 00m" in done.stdout
    assert float(re.search(r"^test accuracy: ([\d.]+)$", done.stdout, flags=re.M)[1]) > 0.8
