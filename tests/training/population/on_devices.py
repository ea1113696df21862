"""A population of eleven members; run as a program, it prints what it found on the devices of its process."""

import json
from typing import Any

import jax
import keras
import numpy as np

from manyfit.core.objective import Objective
from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Permissions, Task
from manyfit.training.keras_fit import KerasFit
from manyfit.training.population import Population
from manyfit.training.population import program as programs
from manyfit.training.population.arrays import State
from manyfit.training.population.layout import Layout
from manyfit.training.population.lift import Lift
from manyfit.training.population.rows_pass import RowsPass
from manyfit.training.population.trace import Trace

NUM_MEMBERS = 11  # neither one nor two devices' worth
RNG = np.random.default_rng(3)
X = RNG.normal(size=(72, 4)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")


def build(hp: dict[str, float]) -> keras.Model:
    """A regression with dropout, whose members differ in their rates."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(int(hp.get("units", 8)), activation="relu"),
            keras.layers.Dropout(hp["rate"]),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(hp["learning_rate"]), loss="mse")
    return model


def plans() -> list[Plan]:
    """Members that train for two to four epochs, so that slots change hands."""
    return [
        Plan(str(number), 0, {"learning_rate": 0.01 * (1 + number), "rate": 0.1 + number / 40}, number, 2 + number % 3)
        for number in range(NUM_MEMBERS)
    ]


class Batches(keras.utils.PyDataset):
    """The rows, batch by batch."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return X[16 * index : 16 * index + 16], Y[16 * index : 16 * index + 16]


def curves(*, own_order: bool = False, stream: bool = False) -> dict[str, list[float]]:
    """The loss curves of all members, on validation rows too."""
    supply = ListSupply(plans())
    arguments = {"batch_size": None if stream else 16, "validation_data": (X[:40], Y[:40]), "verbose": 0}
    data = (Batches(),) if stream else (X, Y)
    task = Task(
        build, Call(data, arguments), objective=Objective("val_loss", "min"), may=Permissions(share_order=not own_order)
    )
    Population(KerasFit(), population_size=10).train(supply, task)
    return {
        f"{trial_id} {name}": result.history[name]
        for (trial_id, _), result in sorted(supply.results.items())
        for name in ("loss", "val_loss")
    }


def training_pass(count: int) -> tuple[RowsPass, Any]:
    """A pass over the rows for so many members, and the arguments of its epoch."""
    values = {"units": 64, "learning_rate": 0.01, "rate": 0.5}
    supply, found = ListSupply([Plan("0", 0, values, seed=0)]), []
    original = programs.SharedProgram.add

    def keep(program: programs.SharedProgram, trace: Trace, state: State) -> None:
        found.append((program.data.training, trace, state))
        original(program, trace, state)

    programs.SharedProgram.add = keep  # type: ignore[method-assign]
    try:
        task = Task(build, Call((X[:64], Y[:64]), {"batch_size": 16, "epochs": 1, "verbose": 0}), objective=None)
        Population(KerasFit()).train(supply, task)
    finally:
        programs.SharedProgram.add = original  # type: ignore[method-assign]
    rows, trace, state = found[0]
    rows_pass = RowsPass("train", Lift(trace), layout=Layout("scan", "vmap"), count=count, rows=rows)
    lifted = rows_pass.lifted([trace] * count)
    return rows_pass, rows_pass.loop_arguments([state] * count, lifted, rows.in_order())


def num_flops(count: int) -> float:
    """What one device computes in an epoch of so many members, by the compiler's count."""
    rows_pass, arguments = training_pass(count)
    return rows_pass.spread.compile(rows_pass.loop, arguments).num_flops


def for_tpu(count: int) -> dict[str, Any]:
    """The same epoch lowered for TPUs, and what devices tell each other in it."""
    rows_pass, arguments = training_pass(count)
    many, shapes, _ = rows_pass.spread.program(rows_pass.loop, arguments)
    exported = jax.export.export(many, platforms=["tpu"])(*shapes)
    words = ("all_reduce", "all_gather", "all_to_all", "collective_permute", "reduce_scatter")
    return {
        "platforms": exported.platforms,
        "devices": exported.nr_devices,
        "collectives": [word for word in words if word in exported.mlir_module()],
    }


if __name__ == "__main__":
    found = {"devices": jax.device_count(), "flops": num_flops(64), "shared order": curves()}
    found.update({"own order": curves(own_order=True), "stream": curves(stream=True)})
    print(json.dumps({**found, "tpu": for_tpu(64)}))
