"""The programs in `examples/guides` run as they are, and print what they promise."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path

import pytest

GUIDES = Path(__file__).parents[1] / "examples" / "guides"

PROMISED = {
    "distributed_tuning": ["this process: {'0': ", "two workers: {'0': ", "The best trial"],
    "custom_tuner": [": worst_recall 0.", "Measured again with the weights that were kept"],
    "failed_trials": ["too large", "units are broken", "4 units cannot be broken", "the data are not mounted"],
    "getting_started": ["Search space summary", "Results summary", "on test rows", "'batch_size'"],
    "tailor_the_search_space": [
        "{'learning_rate': 0.001, 'units'",
        "'loss': 'binary_crossentropy'",
        "Compiled by the tuner",
    ],
    "visualize_tuning": ["execution0 (train, validation)", "tensorboard --logdir"],
}


def test_every_guide_is_run():
    assert {path.stem for path in GUIDES.glob("*.py")} == set(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_a_guide_runs_and_prints_what_it_promises(name, tmp_path, monkeypatch, capfd):
    if name == "visualize_tuning" and importlib.util.find_spec("tensorboard") is None:
        pytest.skip("needs tensorboard (pip install manyfit[tensorboard])")
    path = GUIDES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), str(tmp_path)])
    runpy.run_path(str(path), run_name="__main__")
    printed = capfd.readouterr().out
    assert not [text for text in PROMISED[name] if text not in printed]
