"""Members leave, join, pause, fail and fall back."""

import dataclasses
import math

import jax
import keras
import numpy as np
import pytest
from marks import needs_jax

from manyfit.core.objective import Objective
from manyfit.core.records import Decision, Ending, Plan
from manyfit.data.call import Call
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Permissions, Task, Trainer
from manyfit.training.keras_fit import KerasFit
from manyfit.training.population import Population, families, supported
from manyfit.training.population import layout as layout_module
from manyfit.training.population import program as program_module
from manyfit.training.population import rounds as rounds_module
from manyfit.training.population import rows_pass as rows_pass_module
from manyfit.training.population import session as session_module
from manyfit.training.population.layout import Layout
from manyfit.training.population.lift import Lift
from manyfit.training.population.rounds import Rounds

pytestmark = [
    needs_jax,
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
]

RNG = np.random.default_rng(3)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")


def build(hp):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(4), keras.layers.Dropout(hp["rate"]), keras.layers.Dense(1)]
    )
    model.compile(optimizer=keras.optimizers.SGD(hp["learning_rate"]), loss="mse")
    return model


def _eager(hp):
    model = build(hp)
    model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    return model


def make_task(objective="val_loss", build=build, **kwargs):
    arguments = {"epochs": 4, "batch_size": 16, "validation_data": (X[:32], Y[:32]), "verbose": 0, **kwargs}
    return Task(build, Call((X, Y), arguments), objective=objective and Objective(objective, "min"))


def plans(count, learning_rate=0.01):
    return [
        Plan(str(n), 0, {"learning_rate": learning_rate * (1 + n / 10), "rate": 0.1 + n / 20}, seed=n)
        for n in range(count)
    ]


class Recorder(Trainer):
    """A fallback that keeps what it was given, and trains it with `model.fit`."""

    def __init__(self):
        self.plans = []

    def train(self, supply, task):
        def take(count):
            found = supply.take(1)
            self.plans.extend(found)
            return found

        class Watched:
            report, finish = supply.report, supply.finish

        Watched.take = staticmethod(take)
        KerasFit().train(Watched, task)


def test_one_program_for_scalars_and_slots_are_refilled():
    population = Population(Recorder(), population_size=3)
    supply = ListSupply(plans(8))
    population.train(supply, make_task())
    (record,) = population.programs().records
    assert (record.members, record.versions) == (8, 1)
    assert record.lifted >= 2  # the dropout rate; the learning rate is state
    assert record.program in str(population.programs())
    assert {key: result.ending for key, result in supply.results.items()} == {
        (str(n), 0): Ending.COMPLETED for n in range(8)
    }
    assert all(len(result.history["val_loss"]) == 4 for result in supply.results.values())


def test_members_do_not_depend_on_their_companions():
    alone, together = ListSupply(plans(5)[3:4]), ListSupply(plans(5))
    Population(Recorder()).train(alone, make_task())
    Population(Recorder(), population_size=2).train(together, make_task())
    np.testing.assert_allclose(
        alone.results["3", 0].history["val_loss"], together.results["3", 0].history["val_loss"], rtol=1e-5
    )


def test_stop_and_pause():
    def decide(plan, epoch, logs):
        if plan.trial_id == "0" and epoch == 1:
            return Decision.STOP
        return Decision.PAUSE if plan.trial_id == "1" and epoch == 1 else Decision.GO_ON

    supply = ListSupply(plans(3), decide=decide)
    population = Population(Recorder())
    population.train(supply, make_task())
    assert supply.results["0", 0].ending is Ending.STOPPED
    assert len(supply.results["0", 0].history["loss"]) == 2
    paused = supply.results["1", 0]
    assert paused.ending is Ending.PAUSED and len(paused.history["val_loss"]) == 2


def _predict(trained):
    for _, model in trained:
        assert np.isfinite(model.predict(X, verbose=0)).all()  # Keras donates the arrays that it predicts with


def test_what_cannot_be_kept_is_left_out_and_said_once(tmp_path):
    kept, told = set(), []

    def keep(trained):
        if any(plan.trial_id in ("1", "2") for plan, _ in trained):
            raise OSError("no space left on device")
        kept.update(plan.trial_id for plan, _ in trained)

    (tmp_path / "file").write_text("no folder")
    paths = [tmp_path / "0.npz", tmp_path / "1.npz", tmp_path / "2.npz", tmp_path / "file" / "3.npz"]
    given = [dataclasses.replace(plan, weights_path=str(path)) for plan, path in zip(plans(4), paths, strict=True)]
    for trainer in (Population(KerasFit(), population_size=4, notify=told.append), KerasFit(told.append)):
        kept.clear()
        told.clear()
        supply = ListSupply(given)
        trainer.train(supply, dataclasses.replace(make_task(), keep=keep))
        assert {result.ending for result in supply.results.values()} == {Ending.COMPLETED}
        assert kept == {"0", "3"}
        assert len(told) == 2 and sum("no space left" in line and "predictions" in line for line in told) == 1
        assert sum("weights" in line and "could not be kept" in line for line in told) == 1


@pytest.mark.parametrize(
    ("task_options", "callbacks"),
    [({}, []), ({"keep": _predict}, []), ({"measures": ("predict_seconds",)}, [keras.callbacks.Callback()])],
    ids=["unseen", "kept", "measured"],
)
def test_resumed_member_goes_on_as_if_it_had_never_stopped(task_options, callbacks, tmp_path):
    first = [dataclasses.replace(plan, weights_path=str(tmp_path / f"{plan.trial_id}.npz")) for plan in plans(3)]
    paused = first[1]
    task = dataclasses.replace(make_task(callbacks=callbacks), **task_options)

    class Resuming(ListSupply):
        def finish(self, result):
            super().finish(result)
            endings = {key: found.ending for key, found in self.results.items()}
            if len(endings) == 3 and endings[paused.key] is Ending.PAUSED:  # the others have ended: it goes on
                self.put(dataclasses.replace(paused, first_epoch=2))

    supply = Resuming(
        first, decide=lambda plan, epoch, _: Decision.PAUSE if (plan.trial_id, epoch) == ("1", 1) else Decision.GO_ON
    )
    Population(Recorder()).train(supply, task)
    assert supply.results["1", 0].ending is Ending.COMPLETED
    straight = ListSupply([paused])
    Population(Recorder()).train(straight, make_task())
    for name, curve in straight.results["1", 0].history.items():
        np.testing.assert_allclose(supply.results["1", 0].history[name], curve, rtol=1e-5)


def test_what_was_paused_in_a_process_that_is_gone_starts_again_in_silence():
    paused = dataclasses.replace(plans(3)[1], first_epoch=2)
    reported = []

    class Listening(ListSupply):
        def report(self, epochs):
            reported.extend(epoch for _, epoch, _ in epochs)
            return super().report(epochs)

    supply, straight = Listening([paused]), ListSupply([dataclasses.replace(paused, first_epoch=0)])
    Population(Recorder()).train(supply, make_task())
    Population(Recorder()).train(straight, make_task())
    assert reported == [2, 3]
    assert supply.results["1", 0].history == straight.results["1", 0].history


@pytest.mark.parametrize("own_order", [False, True])
def test_the_order_of_the_data_follows_the_seed_where_the_task_says_so(own_order, monkeypatch):
    # Same weights, same hyperparameters, another seed: only the order of the batches can tell the two apart.
    def constant(hp):
        model = build({**hp, "rate": 0.0})
        model.set_weights([np.full(weight.shape, 0.1, "float32") for weight in model.get_weights()])
        return model

    values = {"learning_rate": 0.05, "rate": 0.0}
    supply = ListSupply([Plan("a", 0, values, seed=1), Plan("b", 0, values, seed=2)])
    task = dataclasses.replace(make_task(build=constant), may=Permissions(share_order=not own_order))
    Population(Recorder()).train(supply, task)
    first, second = (supply.results[name, 0].history["val_loss"] for name in "ab")
    assert (first != second) is own_order


def test_divergence_harms_nobody_else():
    wild = Plan("wild", 0, {"learning_rate": 1e20, "rate": 0.2}, seed=0)
    supply, calm = ListSupply([wild, *plans(2)]), ListSupply(plans(2))
    Population(Recorder()).train(supply, make_task())
    Population(Recorder()).train(calm, make_task())
    result = supply.results["wild", 0]
    assert result.ending is Ending.DIVERGED
    assert len(result.history["loss"]) < 4
    for key, other in calm.results.items():
        np.testing.assert_allclose(supply.results[key].history["loss"], other.history["loss"], rtol=1e-5)


def test_callbacks_are_the_users_own():
    lines = []

    class Own(keras.callbacks.Callback):
        def __deepcopy__(self, memo):
            return Own()

        def on_epoch_end(self, epoch, logs=None):
            lines.append((float(self.model.optimizer.learning_rate), self.model.get_weights()[0].shape, set(logs)))

    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
        keras.callbacks.EarlyStopping(monitor="loss", min_delta=1e9, patience=1),
        Own(),
    ]
    task = make_task(callbacks=callbacks, shuffle=False)
    supply, reference = ListSupply(plans(2)), ListSupply(plans(2))
    Population(Recorder()).train(supply, task)
    seen, lines[:] = list(lines), []
    KerasFit().train(reference, task)
    # A scheduler halves the rate before each epoch, and early stopping ends both after two.
    assert sorted(rate for rate, _, _ in seen) == pytest.approx(sorted(rate for rate, _, _ in lines))
    assert seen[0][1] == (4, 4) and {"loss", "val_loss"} <= seen[0][2]
    for key, result in reference.results.items():
        assert len(result.history["loss"]) == 2
        np.testing.assert_allclose(supply.results[key].history["loss"], result.history["loss"], rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"callbacks": [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)]},
            "works on batches",
        ),
        ({"build": _eager}, "run_eagerly"),
    ],
)
def test_falls_back_with_one_line_of_reason(change, words):
    told, fallback = [], Recorder()
    population = Population(fallback, notify=told.append)
    supply = ListSupply(plans(2))
    population.train(supply, make_task(epochs=1, **change))
    assert len(told) == 1 and words in told[0]
    assert [plan.trial_id for plan in fallback.plans] == ["0", "1"]
    assert all(result.ending is Ending.COMPLETED for result in supply.results.values())
    assert words in str(population.programs())


def test_a_failing_build_is_an_ending():
    def broken(hp):
        if hp["rate"] > 0.12:
            raise ValueError("no such layer")
        return build(hp)

    supply = ListSupply(plans(2))
    Population(Recorder()).train(supply, make_task(build=broken, epochs=1))
    assert supply.results["0", 0].ending is Ending.COMPLETED
    assert supply.results["1", 0].ending is Ending.FAILED
    assert "no such layer" in supply.results["1", 0].message


def test_too_large_models_are_not_trained():
    task = make_task(epochs=1)
    task = dataclasses.replace(task, max_model_size=10)
    supply = ListSupply(plans(1))
    Population(Recorder()).train(supply, task)
    assert supply.results["0", 0].ending is Ending.TOO_LARGE


def test_supported_here():
    assert supported() is None


@pytest.mark.parametrize("layout", ["scan/vmap", "scan/unrolled", "host/vmap", "host/sequential", "chunk/unrolled"])
def test_layouts_agree(layout, monkeypatch):
    steps, members = layout.split("/")
    reference = ListSupply(plans(3))
    Population(Recorder()).train(reference, make_task())
    monkeypatch.setattr(program_module, "candidates", lambda trace, **_: (Layout(steps, members),))
    supply = ListSupply(plans(3))
    population = Population(Recorder())
    population.train(supply, make_task())
    assert population.programs().records[0].layout == layout
    for key, result in reference.results.items():
        np.testing.assert_allclose(supply.results[key].history["val_loss"], result.history["val_loss"], rtol=1e-4)


def test_one_program_tries_a_layout_while_the_others_go_on(monkeypatch):
    monkeypatch.setenv("MANYFIT_CACHE_DIR", "off")  # else the first search tells the second which layout is best
    reference, supply = ListSupply(plans(8)), ListSupply(plans(8))
    Population(Recorder()).train(reference, make_task(epochs=8))
    for module in (rounds_module, session_module, rows_pass_module):
        monkeypatch.setattr(module, "num_workers", lambda: 2)
    options = (Layout("scan", "vmap"), Layout("scan", "sequential"))
    monkeypatch.setattr(program_module, "candidates", lambda trace, **_: options)
    monkeypatch.setattr(layout_module, "HOPED_GAIN", math.inf)
    started = []
    honest = Rounds.start
    monkeypatch.setattr(Rounds, "start", lambda self, batches: (started.append(list(batches)), honest(self, batches)))
    Population(Recorder()).train(supply, make_task(epochs=8))
    trying = [batch for batches in started for batch in batches if batch.layout == options[1]]
    together = [batch for batches in started for batch in batches if batch.layout == options[0]]
    assert trying and len(together) >= 4
    first = next(batches for batches in started if batches and batches[0].layout == options[1])
    assert sum(len(batch.members) for batch in first if batch.layout == options[1]) == 4  # one core's share of eight
    for key, result in reference.results.items():
        np.testing.assert_allclose(supply.results[key].history["val_loss"], result.history["val_loss"], rtol=1e-4)


def test_members_at_different_epochs_read_their_own_order_in_a_fused_program(monkeypatch):
    monkeypatch.setattr(program_module, "candidates", lambda trace, **_: (Layout("scan", "vmap"),))
    uneven = [dataclasses.replace(plan, epochs=2 + number) for number, plan in enumerate(plans(3))]
    fused, alone = ListSupply(uneven), ListSupply([uneven[2]])
    Population(Recorder(), population_size=2).train(fused, make_task())  # the third joins when the first has left
    Population(Recorder()).train(alone, make_task())
    np.testing.assert_allclose(fused.results["2", 0].history["loss"], alone.results["2", 0].history["loss"], rtol=1e-4)


def test_programs_are_probed_once_however_many_batches_begin_together(monkeypatch):
    for module in (rounds_module, session_module, rows_pass_module):
        monkeypatch.setattr(module, "num_workers", lambda: 2)
    probes = []
    honest = program_module.find_mismatch
    monkeypatch.setattr(
        program_module, "find_mismatch", lambda *args, **kwargs: (probes.append(1), honest(*args, **kwargs))[1]
    )
    supply = ListSupply(plans(8))
    Population(Recorder()).train(supply, make_task())
    assert len(probes) == 1
    assert {result.ending for result in supply.results.values()} == {Ending.COMPLETED}


def two_optimizers(hp):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(4), keras.layers.LeakyReLU(hp["slope"]), keras.layers.Dense(1)]
    )
    model.compile(optimizer={"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[hp["optimizer"]](), loss="mse")
    return model


def of_two_optimizers(slopes):
    values = [{"optimizer": name, "slope": slope} for name, slope in zip(["sgd", "adam"] * 2, slopes, strict=True)]
    return [Plan(str(n), 0, each, seed=n) for n, each in enumerate(values)]


@pytest.mark.parametrize(
    ("slopes", "num_programs"),
    [((0.1, 0.1, 0.1, 0.1), 1), ((0.1, 0.4, 0.1, 0.4), 1), ((0.5, 2.0, 0.5, 2.0), 2)],
)
def test_structures_that_differ_in_training_only_share_their_test_program(slopes, num_programs, monkeypatch):
    """Unless other numbers are written into it: here a slope of 2, which is one of the numbers that are no inputs."""
    monkeypatch.setattr(families, "WIDENS", False)  # else one wide program trains with either optimizer
    population, supply = Population(Recorder()), ListSupply(of_two_optimizers(slopes))
    population.train(supply, make_task(build=two_optimizers))
    assert len(population.learned.programs) == 2
    assert sum(each.kind == "test" for each in population.learned.passes.values()) == num_programs
    for plan in of_two_optimizers(slopes):
        alone = ListSupply([plan])
        Population(Recorder()).train(alone, make_task(build=two_optimizers))
        curves = [found.results[plan.key].history["val_loss"] for found in (supply, alone)]
        np.testing.assert_allclose(*curves, rtol=1e-5)


def test_a_worker_without_work_compiles_while_further_members_are_built(monkeypatch):
    for module in (rounds_module, session_module, rows_pass_module):
        monkeypatch.setattr(module, "num_workers", lambda: 2)
    reference, supply, ahead = ListSupply(plans(16)), ListSupply(plans(16)), []
    honest = Rounds.compile_ahead
    monkeypatch.setattr(
        Rounds, "compile_ahead", lambda self, batch: (ahead.append(len(batch.members)), honest(self, batch))
    )
    Population(Recorder()).train(supply, make_task())
    assert ahead[0] == 2  # the first two members tell in what a family differs
    monkeypatch.setattr(Rounds, "compile_ahead", lambda self, batch: None)
    Population(Recorder()).train(reference, make_task())
    for key, result in reference.results.items():
        assert supply.results[key].history == result.history


def test_the_probe_catches_a_wrong_number(monkeypatch):
    honest = Lift.values

    def tampered(self, trace):
        return jax.tree.map(lambda values: values * 1.5 if values.dtype.kind == "f" else values, honest(self, trace))

    monkeypatch.setattr(Lift, "values", tampered)
    told, fallback = [], Recorder()
    population = Population(fallback, notify=told.append)
    population.train(ListSupply(plans(2)), make_task(epochs=1))
    assert len(told) == 1 and "is not that of member" in told[0]
    assert len(fallback.plans) == 2


def test_what_raises_in_a_program_that_members_share_ends_the_one_to_blame():
    def checked(_, predicted):
        def check(mean):
            if not np.all(np.isfinite(mean)):
                raise ZeroDivisionError("a metric refuses inf")
            return np.asarray(mean)

        mean = keras.ops.mean(predicted)
        return jax.pure_callback(check, jax.ShapeDtypeStruct((), mean.dtype), mean, vmap_method="sequential")

    def build(hp):
        model = keras.Sequential([keras.layers.Input((X.shape[1],)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(hp["rate"]), "mse", metrics=[checked])
        return model

    told = []
    given = [Plan(str(n), 0, {"rate": rate}, seed=n) for n, rate in enumerate((0.01, 1e30, 0.02))]
    supply = ListSupply(given)
    task = Task(build, Call((X, Y), {"epochs": 2, "verbose": 0}), objective=Objective("loss", "min"))
    Population(KerasFit(), population_size=3, notify=told.append).train(supply, task)
    assert len(told) == 1 and "an epoch that trials share failed" in told[0]
    assert [supply.results[plan.key].ending for plan in given] == [Ending.COMPLETED, Ending.FAILED, Ending.COMPLETED]
    assert "a metric refuses inf" in supply.results["1", 0].message


def test_memory_that_a_member_does_not_get_is_its_own_ending(monkeypatch):
    given = plans(3)
    copied, asked = program_module.copied, []

    def short(values):
        asked.append(values)
        if len(asked) == 2:
            raise MemoryError("no room")
        return copied(values)

    monkeypatch.setattr(program_module, "copied", short)
    supply = ListSupply(given)
    Population(KerasFit(), population_size=3, notify=pytest.fail).train(supply, make_task())
    endings = sorted(result.ending.name for result in supply.results.values())
    assert endings == ["COMPLETED", "COMPLETED", "OUT_OF_MEMORY"]
