"""What files and programs may hold, whatever it is, is taken or refused by an error of ours: `make fuzz` tries more."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import manyfit as kt  # isort: skip

import hypothesis
from hypothesis import strategies as st

from manyfit.core.errors import ManyfitError
from manyfit.space.configs import KINDS
from manyfit.space.hyperparameters import deserialize

#: Examples of each test: few and the same ones in CI, many and new ones where somebody asks.
MOST = int(os.environ.get("MANYFIT_FUZZ", "0"))
few = hypothesis.settings(
    max_examples=MOST or 60,
    derandomize=not MOST,
    suppress_health_check=list(hypothesis.HealthCheck),
    database=None,
    print_blob=False,
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def whole() -> dict[str, Any]:
    """The configuration of a space of every kind."""
    hp = kt.HyperParameters()
    hp.Int("units", 1, 64, sampling="log")
    hp.Float("rate", 0.1, 1.0, step=0.1)
    hp.Boolean("flag")
    hp.Fixed("size", 3)
    with hp.conditional_scope("flag", [True]):
        hp.Choice("kind", ["a", "b"])
    return hp.get_config()


@st.composite
def damaged(draw: st.DrawFn, config: Any) -> Any:
    """A copy in which one part, wherever it lies, is gone or another."""
    config = json.loads(json.dumps(config))
    holder, key = None, None
    part = config
    while isinstance(part, dict | list) and part and (holder is None or draw(st.booleans())):
        keys = sorted(part) if isinstance(part, dict) else range(len(part))
        holder, key = part, draw(st.sampled_from(list(keys)))
        part = holder[key]
    if holder is None:
        return draw(values)
    if draw(st.integers(0, 4)):
        holder[key] = draw(values)
    else:
        del holder[key]
    return config


@few
@hypothesis.given(values | damaged(whole()) | damaged({"class_name": "HyperParameters", "config": whole()}))
def test_configurations(config):
    for read in (kt.HyperParameters.from_config, deserialize):
        with contextlib.suppress(ManyfitError):
            read(config)


@few
@hypothesis.given(st.sampled_from(sorted(KINDS)), st.text(max_size=3), st.lists(values, max_size=5))
def test_definitions(kind, name, arguments):
    hp = kt.HyperParameters()
    with contextlib.suppress(ManyfitError):
        getattr(hp, kind)(name, *arguments)
        # What was taken is whole: it has a value, and comes back from its configuration.
        again = kt.HyperParameters.from_config(json.loads(json.dumps(hp.get_config())))
        assert [each.name for each in again.space] == [name] and again.space[0].contains(hp.get(name))


TRIAL = {
    "trial_id": "0",
    "hyperparameters": whole(),
    "metrics": {"metrics": {"loss": {"direction": "min", "observations": [{"value": [1.0], "step": 0}]}}},
    "score": 1.0,
    "best_step": 0,
    "status": "COMPLETED",
    "message": None,
}


@few
@hypothesis.given(damaged(TRIAL))
def test_trials(state):
    with contextlib.suppress(ManyfitError):
        kt.Trial.from_state(state).get_state()
