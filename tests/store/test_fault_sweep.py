"""A write of a search fails, whichever it is: nothing is lost, nothing runs again. All of them: `make faults`."""

from __future__ import annotations

import faults
import pytest
import tiny
from marks import only_on

from manyfit.core.errors import ProjectError
from manyfit.ensemble import Ensemble
from manyfit.ensemble.members import EnsembleMember

pytestmark = only_on("jax", "a population is one of JAX")

#: Of the writes of each search so many are left out in between; another way of failing begins at another one.
STRIDES = {"population": 7, "model.fit": 13, "estimators": 4, "SklearnTuner": 5}


@pytest.mark.parametrize("way", list(faults.WAYS))
@pytest.mark.parametrize("name", list(faults.SEARCHES))
def test_a_search_survives_a_write_that_fails(name, way, tmp_path, capsys):
    if name in ("estimators", "SklearnTuner"):
        pytest.importorskip("sklearn")
    first = list(faults.WAYS).index(way)
    found = dict(faults.sweep(name, tmp_path, faults.WAYS[way], STRIDES[name], first))
    assert len(found) >= 3 and not any(found.values()), {number: wrong for number, wrong in found.items() if wrong}


def test_an_ensemble_that_was_there_is_there_after_a_write_that_fails(tmp_path):
    def saved(scale):
        members = [EnsembleMember(f"{n}", {"scale": scale, "n": n}, faults.X[:, n : n + 1]) for n in (0, 1)]
        return Ensemble.fit(members, faults.X[:, :2].mean(axis=1), method="uniform")

    folder = tmp_path / "out" / "ensemble"
    saved(1).save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    number = 0
    while True:
        with faults.Disk(tmp_path, number) as disk:
            try:
                saved(2).save(folder)
                break
            except ProjectError as error:
                assert "call ensemble.save again" in tiny.four_parts(error)[3]
        assert not [path for path in folder.iterdir() if path.name.startswith("partial-")]
        if number == 0:
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        elif any(path.read_bytes() != before[path.name] for path in folder.glob("member_*")):
            with pytest.raises(ValueError, match="changed"):  # told, and never mixed
                Ensemble.load(folder, trust=True)
        number += 1
    assert disk.num_writes == number == 4
    models = [member.models[0] for member in Ensemble.load(folder, trust=True).members]
    assert models == [{"scale": 2, "n": 0}, {"scale": 2, "n": 1}]
