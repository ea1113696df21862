"""Files of a finished project that are damaged: each is found by who reads it. All damages: `make faults`."""

from __future__ import annotations

from collections import Counter

import damages
import pytest
from marks import only_on

pytestmark = only_on("jax", "models run eagerly here, which is quickest on JAX")


def test_whatever_is_damaged_is_told(tmp_path, capsys):
    found = list(damages.sweep(tmp_path, stride=13))
    wrong = [one for one in found if one[3] in ("raw", "silent")]
    assert not wrong, wrong[0]
    kinds = Counter(kind for _, _, _, kind, _ in found)
    assert kinds["told"] > 50 and len({file for file, *_ in found}) > 20, kinds


def test_a_model_of_another_time_is_refused_and_counts_as_not_kept(tmp_path, capsys):
    damages.make(tmp_path)
    weights = tmp_path / "search" / "weights"
    weights.joinpath("0-0.npz").write_bytes(weights.joinpath("1-0.npz").read_bytes())
    tuner = damages.tuner_of(tmp_path)
    trial = tuner.oracle.trials["0"]
    with pytest.raises(RuntimeError, match="not the one that was written"):
        tuner.load_model(trial)
    with pytest.warns(UserWarning, match="counts as one that was not kept"):
        assert not tuner.has_model(trial, 0)
    assert tuner.has_model(tuner.oracle.trials["1"], 0)
    tuner.close()
