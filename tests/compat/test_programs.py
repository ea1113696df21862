"""Small programs that were written for KerasTuner do on Manyfit what they did on KerasTuner 1.4.8.

`recorded.json` holds what 1.4.8 printed (see `record.py`). `DIFFERENT` holds what Manyfit does otherwise on purpose.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

import manyfit.compat

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("compat_programs", HERE / "programs.py")
programs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(programs)

RECORDED = json.loads((HERE / "recorded.json").read_text())
SOURCES = programs.programs()

#: Name -> what Manyfit prints, and why it is not what KerasTuner prints.
DIFFERENT = {
    "int_log_step": ("[1, 2, 4, 8, 16, 32, 64] 0.5\n", "the values of an Int are whole numbers"),
    "float_step_end": ("1.0\n", "a grid ends at its end"),
    "choice_booleans": ("[True, False]\n", "booleans stay booleans"),
    "oracle_retry": ("True\nFAILED\n", "an oracle without a tuner prints nothing"),
}

#: The line that says which override keeps trials from training together: KerasTuner has nothing to say there.
_ABOUT_OVERRIDES = "Trials run one after another, because Run.run_trial is overridden.\n"


@pytest.fixture
def installed():
    before = {name: sys.modules[name] for name in list(sys.modules) if name.partition(".")[0] == "keras_tuner"}
    for name in before:
        del sys.modules[name]
    manyfit.compat.install()
    yield
    manyfit.compat.uninstall()
    sys.modules.update(before)


@pytest.mark.parametrize("name", SOURCES)
def test_a_program_does_what_it_did(name, installed):
    printed = programs.outcome(SOURCES[name]).replace(_ABOUT_OVERRIDES, "")
    expected = DIFFERENT[name][0] if name in DIFFERENT else RECORDED[name]
    assert printed == expected


def test_every_program_is_recorded():
    assert set(SOURCES) == set(RECORDED)
    assert set(DIFFERENT) <= set(SOURCES)
    assert all(expected != RECORDED[name] for name, (expected, _) in DIFFERENT.items())
