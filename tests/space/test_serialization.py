"""The five kinds by name."""

import pytest

from manyfit.core.errors import UsageError
from manyfit.space import Boolean, Fixed, Float, Parent
from manyfit.space.configs import KINDS, of_config
from manyfit.space.hyperparameters import serialize


def test_there_are_five():
    assert sorted(KINDS) == ["Boolean", "Choice", "Fixed", "Float", "Int"]


@pytest.mark.parametrize("hp", [Float("h", 0, 1, step=0.1), Boolean("h", conditions=[Parent("p", 1)]), Fixed("h", 2)])
def test_there_and_back(hp):
    twin = of_config(serialize(hp))
    assert repr(twin) == repr(hp) and twin.key == hp.key


def test_an_unknown_condition_is_refused():
    config = serialize(Boolean("h", conditions=[Parent("p", 1)]))
    config["config"]["conditions"][0]["class_name"] = "Child"
    with pytest.raises(UsageError, match=r"conditions: got Unknown object: 'Child'\. Allowed: the class_name"):
        of_config(config)


@pytest.mark.parametrize("config", [{}, {"class_name": "Int32", "config": {}}])
def test_an_unknown_kind_is_refused(config):
    with pytest.raises(UsageError, match="Unknown object"):
        of_config(config)
