"""A frozen prefix is computed once per row: found in the steps, and the rest trains as if nothing had happened."""

import jax
import keras
import numpy as np
import pytest
from keras import layers
from marks import needs_jax
from populations import compare, equals_model_fit, make_task, refuse, train

import manyfit as kt
from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.training.keras_fit import KerasFit
from manyfit.training.keras_internals import building
from manyfit.training.population import Population, kept_rows
from manyfit.training.population.arrays import values_of, variables_of
from manyfit.training.population.compile import compile_function
from manyfit.training.population.data import Shapes, read_fit_arguments
from manyfit.training.population.kept_rows import Prefixes
from manyfit.training.population.lift import Lift, Steps
from manyfit.training.population.prefix import Prefix, cut_trace
from manyfit.training.population.trace import complete, trace
from manyfit.training.seeding import seeded

pytestmark = [
    needs_jax,
    # Keras 3.15 reads a learning rate in a way that NumPy 2 warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
]

RNG = np.random.default_rng(3)
IMAGES = RNG.normal(size=(42, 6, 6, 3)).astype("float32")
ROWS = RNG.normal(size=(42, 12)).astype("float32")
LABELS = RNG.integers(0, 3, 42)
#: 42 rows in batches of 16, and 12 to validate on in one short batch.
FIT = {"epochs": 2, "batch_size": 16, "shuffle": False, "validation_data": (IMAGES[:12], LABELS[:12])}


def backbone(*, trainable=False, shape=(6, 6, 3)):
    """Two convolutions with a normalisation between them, drawn under a seed of its own, as if it had been loaded."""
    with seeded(11):
        model = keras.Sequential(
            [
                layers.Input(shape),
                layers.Conv2D(8, 3, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(16, 3, activation="relu"),
                layers.GlobalMaxPooling2D(),
            ]
        )
    model.trainable = trainable
    return model


def classifier(inputs, x, hp):
    x = layers.Dropout(hp["dropout"])(x)
    x = layers.Dense(hp["units"], activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile(keras.optimizers.SGD(hp["learning_rate"]), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def headed(make, *before, shape=(6, 6, 3)):
    """A build function: layers before what `make` answers, and a head that is searched."""

    def build(hp):
        x = inputs = layers.Input(shape)
        for layer in before:
            x = layer()(x)
        return classifier(inputs, make()(x), hp)

    return build


def values(**more):
    return {"dropout": 0.2, "units": 4, "learning_rate": 1e-2, **more}


def cut_of(build, data=(IMAGES, LABELS), **fit):
    """The cut of a build function's steps, after one step of each kind without its prefix was what the whole one is."""
    arguments = read_fit_arguments(Call(data, {**FIT, **fit}))
    shapes = Shapes(arguments.training, arguments.validation)
    building.forget_names()
    with seeded(5):
        model = build(values())
        building.build_symbolically(model, shapes.first_batch())
        found = trace(model, shapes)
        complete(found, model, shapes)
    state = tuple(values_of(part) for part in variables_of(model)[:3])
    rows = {"train": arguments.training, "test": arguments.validation}
    cut = cut_trace(found, state, rows)
    if cut is not None:
        for kind, prefix in cut.prefixes.items():
            check_step(kind, found, cut, prefix, state, rows[kind])
    return cut


def check_step(kind, found, cut, prefix, state, rows):
    for number, shapes in enumerate(rows.shapes):
        batch = tuple(leaf[: shape.shape[0]] for leaf, shape in zip(rows.leaves, shapes, strict=True))

        def both(state, batch, number=number):
            fixed = [state[1][place] for place in prefix.fixed]
            whole = Prefix.values(
                prefix, fixed, [rows.leaves[place][: rows.shapes[0][0].shape[0]] for place in prefix.leaves]
            )
            kept = [value[: len(batch[0])] for value in whole]
            fewer = [*(batch[place] for place in cut.leaves[kind]), *kept]
            steps = [(getattr(Steps(Lift(each)), kind), given) for each, given in ((found, batch), (cut.trace, fewer))]
            return [step(number, {}, state, found.start_metrics, given) for step, given in steps]

        expected, got = compile_function(both, (state, batch), effort="once").call(state, batch)
        for left, right in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.fixture
def computed(monkeypatch):
    """The rows that prefixes are computed of, batch by batch."""
    sizes = []
    honest = Prefixes._computed

    def counting(self, prefix, fixed, sources, *, size):
        sizes.append(len(sources[0]))
        return honest(self, prefix, fixed, sources, size=size)

    monkeypatch.setattr(Prefixes, "_computed", counting)
    return sizes


def test_a_backbone_and_what_is_in_front_of_it_is_cut_off():
    cut = cut_of(headed(backbone, lambda: layers.Rescaling(0.5)))
    assert set(cut.prefixes) == {"train", "test"}
    assert cut.prefixes["train"].key == cut.prefixes["test"].key  # batches of 16 rows, and one of 12
    # 3 x 3 x 3 x 8 numbers of the first convolution in 4 x 4 places, 3 x 3 x 8 x 16 of the second in 2 x 2.
    assert cut.prefixes["train"].multiplications == 27 * 8 * 16 + 72 * 16 * 4
    assert cut.prefixes["train"].num_bytes == 16 * 4
    assert cut.leaves == {"train": (1,), "test": (1,)}  # the labels; nobody reads the images any more
    assert len(cut.trace.idle) == 7  # kernels, a bias, and what the normalisation knows: no state of the rest


def test_a_number_that_a_search_tries_stays_in_the_step():
    first, second = cut_of(headed(backbone)), cut_of(lambda hp: headed(backbone)({**hp, "dropout": 0.4}))
    assert first.trace.key == second.trace.key


def test_another_backbone_is_another_program():
    def other():
        model = backbone()
        return keras.Sequential([layers.Input((6, 6, 3)), layers.Rescaling(0.5), model])

    assert cut_of(headed(backbone)).trace.key != cut_of(headed(other)).trace.key


def test_what_trains_is_no_prefix():
    assert cut_of(headed(lambda: backbone(trainable=True))) is None


def test_the_frozen_layers_in_front_of_one_that_trains():
    def tuned():
        model = backbone(trainable=True)
        for layer in model.layers[:3]:
            layer.trainable = False
        return model

    # 27 multiplications for each number that would be kept: it is computed again as quickly as it is read.
    assert cut_of(headed(tuned)) is None

    def tuned_at_its_end():
        model = backbone()
        model.trainable = True
        for layer in model.layers[:-1]:
            layer.trainable = False
        return keras.Sequential([model, layers.Dense(4)])

    assert set(cut_of(headed(tuned_at_its_end)).prefixes) == {"train", "test"}


@pytest.mark.parametrize("layer", [lambda: layers.RandomFlip("horizontal"), lambda: layers.Dropout(0.1)])
def test_behind_what_draws_only_the_validation_has_a_prefix(layer):
    assert set(cut_of(headed(backbone, layer)).prefixes) == {"test"}


def test_a_normalisation_that_updates_ends_it():
    # It normalises by its batch while it trains, and in the validation by averages that change from epoch to epoch.
    assert cut_of(headed(backbone, layers.BatchNormalization)) is None


def test_several_inputs_and_what_passes_by_the_backbone():
    def build(hp):
        image, row = layers.Input((6, 6, 3), name="image"), layers.Input((12,), name="row")
        x = layers.Concatenate()([backbone()(image), row])
        return classifier([image, row], x, hp)

    data = ({"image": IMAGES, "row": ROWS}, LABELS)
    cut = cut_of(build, data, validation_data=None, validation_split=0.3)
    assert cut.leaves["train"] == (1, 2)  # the rows of the table and the labels


def test_sequences_of_rows():
    def build(hp):
        inputs = layers.Input((6, 6, 3))
        x = layers.Reshape((36, 3))(inputs)
        frozen = [layers.Dense(32), layers.MultiHeadAttention(2, 16), layers.LayerNormalization(), layers.Conv1D(8, 3)]
        for layer in frozen:
            x = layer(x, x) if isinstance(layer, layers.MultiHeadAttention) else layer(x)
            layer.trainable = False  # now, since layers inside of a layer come into being as it is built
        return classifier(inputs, layers.GlobalAveragePooling1D()(x), hp)

    assert cut_of(build).prefixes["train"].num_bytes == 8 * 4


def test_a_head_trains_as_with_its_backbone_which_is_computed_once(computed):
    several = [values(), values(dropout=0.4), values(learning_rate=1e-3)]
    population = equals_model_fit(headed(backbone), lambda: (IMAGES, LABELS), FIT, several)
    words = "a frozen prefix of 8.06 k multiplications a row is computed once (54 rows, 3.46 kB)"
    assert {record.frozen for record in population.programs().records} == {words}
    assert words in str(population.programs())
    assert sorted(computed) == [12, 42]  # the rows to validate on, and those to train on
    assert [record.members for record in population.programs().records] == [3]


def test_weights_that_each_seed_draws():
    def build(hp):
        inputs = layers.Input((12,))
        x = layers.Dense(256, activation="tanh", trainable=False)(inputs)
        return classifier(inputs, layers.Dense(2, trainable=False)(x), hp)

    fit = {"epochs": 2, "batch_size": 16, "shuffle": False}
    equals_model_fit(build, lambda: (ROWS, LABELS), fit, [values(), values(dropout=0.4)])


def test_folds_and_trials_share_a_backbone_made_outside_of_the_build_function(project, computed):
    shared = backbone()
    tuner = kt.RandomSearch(lambda hp: searched(hp, lambda: shared), "val_loss", max_trials=2, seed=0, **project)
    tuner.search(IMAGES, LABELS, epochs=1, batch_size=16, verbose=0, cross_validation=3)
    assert computed == [42]


def searched(hp, make=backbone):
    hp = {
        "dropout": hp.Float("dropout", 0.1, 0.5),
        "units": hp.Choice("units", [4, 6]),
        "learning_rate": hp.Float("learning_rate", 1e-3, 1e-1, sampling="log"),
    }
    return headed(make)(hp)


def test_as_a_user_types_it(project, tmp_path, computed):
    def search(**options):
        tuner = kt.RandomSearch(searched, "val_loss", max_trials=2, seed=0, **options)
        tuner.search(IMAGES, LABELS, verbose=0, **FIT)
        return tuner

    tuner = search(**project)
    alone = search(directory=str(tmp_path), project_name="alone", population=False)
    for ours, theirs in zip(tuner.oracle.trials.values(), alone.oracle.trials.values(), strict=True):
        compare(ours.executions[0].history, theirs.executions[0].history)
    assert all("a frozen prefix of" in record.frozen for record in tuner.programs().records)
    assert computed == [42, 12]
    best = tuner.get_best_models(1)[0]
    score = min(trial.score for trial in tuner.oracle.trials.values())
    assert best.evaluate(*FIT["validation_data"], verbose=0)[0] == pytest.approx(score, rel=1e-5)


class Thaws(keras.callbacks.Callback):
    """Changes weights of the backbone after the first epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            kernel = self.model.layers[1].weights[0]
            kernel.assign(kernel * 2.0)


def test_a_callback_that_changes_frozen_weights_ends_it():
    plans = [Plan("0", 0, values(), seed=5)]
    told = []
    task = make_task(headed(backbone), lambda: (IMAGES, LABELS), {**FIT, "epochs": 3, "callbacks": [Thaws()]})
    ours = train(Population(KerasFit(), notify=told.append), task, plans).results["0", 0]
    theirs = train(KerasFit(), task, plans).results["0", 0]
    compare(ours.history, theirs.history)
    assert any("a callback has changed weights that no step trains" in line for line in told)


def one_epoch(build):
    population = Population(KerasFit(), notify=refuse)
    task = make_task(build, lambda: (IMAGES, LABELS), {**FIT, "epochs": 1})
    assert train(population, task, [Plan("0", 0, values(), seed=5)]).results["0", 0].ending.has_score
    (record,) = population.programs().records
    return record.frozen


def test_too_large_for_the_memory(monkeypatch, computed):
    monkeypatch.setattr(kept_rows, "free_bytes", lambda: 1000)
    assert one_epoch(headed(backbone)) == ""
    assert computed == []


def test_what_does_not_move_with_its_row_is_not_kept(monkeypatch):
    honest = Prefix.values

    def wrong(self, fixed, leaves):
        return [out + np.arange(len(out), dtype="float32")[:, None] for out in honest(self, fixed, leaves)]

    monkeypatch.setattr(Prefix, "values", wrong)
    assert one_epoch(headed(backbone)) == ""
