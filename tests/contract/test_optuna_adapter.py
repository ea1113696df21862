"""Optuna's samplers, adapted, against the conformance suite; needs the optional extra."""

from __future__ import annotations

import pytest

from manyfit.core.errors import UsageError
from manyfit.samplers.base import Sampler
from manyfit.samplers.optuna_adapter import OptunaSampler
from manyfit.testing.samplers import SamplerSuite

pytest.importorskip("optuna", reason="the optional extra manyfit[optuna] is not installed")


class TestTreeParzenEstimator(SamplerSuite):
    def make(self) -> Sampler:
        return OptunaSampler("TPESampler", {"constant_liar": True})


def test_unknown_samplers_and_settings_are_refused() -> None:
    with pytest.raises(UsageError, match=r"a class in optuna\.samplers"):
        OptunaSampler("MagicSampler")
    with pytest.raises(UsageError, match="what TPESampler takes"):
        OptunaSampler("TPESampler", {"magic": 1})
