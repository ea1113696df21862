"""The choice of a layout: by what was measured, tried where it may pay, remembered for other processes."""

import jax
import keras
import numpy as np
import pytest
from marks import needs_a_cpu, needs_jax

from manyfit.data.call import Call
from manyfit.training.keras_internals import building
from manyfit.training.population import compile as compile_module
from manyfit.training.population.arrays import values_of, variables_of
from manyfit.training.population.compile import compile_function
from manyfit.training.population.data import Shapes, read_fit_arguments
from manyfit.training.population.grouping import slots_on_cores
from manyfit.training.population.layout import Layout, LayoutChoice, Remembered, candidates, recall, remember
from manyfit.training.population.lift import Lift
from manyfit.training.population.rows_pass import Parts, RowsPass
from manyfit.training.population.sizing import Sizing
from manyfit.training.population.trace import trace

pytestmark = needs_jax

SCAN, HOST, FUSED = Layout("scan", "sequential"), Layout("host", "sequential"), Layout("scan", "vmap")


def chosen(choice, layout, seconds, *, left=1000):
    """Lets a layout be timed as long as it is chosen; answers the next choice."""
    for _ in range(10):
        if choice.choose(left, 1.0) != layout:
            break
        choice.record(layout, seconds)
    return choice.choose(left, 1.0)


class Own(keras.layers.Layer):
    """A convolution of a user's own, whose gradient is JAX's."""

    def call(self, x):
        return jax.lax.conv_general_dilated(
            x, jax.lax.stop_gradient(jax.numpy.ones((3, 3, 2, 2))), (1, 1), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip


@needs_a_cpu
@pytest.mark.parametrize(
    ("layer", "layouts"),
    [
        (lambda: keras.layers.Conv2D(2, 3), [SCAN, HOST]),
        (lambda: keras.layers.SeparableConv2D(2, 3), [SCAN, HOST]),
        (Own, [HOST, Layout("chunk", "sequential"), SCAN]),
        (keras.layers.Flatten, [SCAN, FUSED, Layout("chunk", "sequential"), HOST]),
    ],
)
def test_loops_come_first_where_convolutions_are_quick_in_them(layer, layouts):
    first = keras.layers.Conv2D(2, 3) if layer is Own else keras.layers.Activation("relu")
    assert list(candidates(steps_of((6, 6, 1), first, layer(), keras.layers.Flatten()))) == layouts


def steps_of(shape, *layers):
    """The trace of a small model."""
    model = keras.Sequential([keras.layers.Input(shape), *layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    rows = np.zeros((4, *shape), "float32"), np.zeros(4, "float32")
    shapes = Shapes(read_fit_arguments(Call(rows, {"batch_size": 4})).training, None)
    building.build_symbolically(model, shapes.first_batch())
    return trace(model, shapes)


@needs_a_cpu
@pytest.mark.parametrize(
    ("shape", "layer", "first"),
    [
        ((60,), lambda: keras.layers.Dense(1600), FUSED),
        ((60,), lambda: keras.layers.Dense(1700), SCAN),  # more than 100,000 numbers
        ((3, 2), lambda: keras.layers.LSTM(2), SCAN),
        ((3, 2), lambda: keras.layers.LSTM(2, unroll=True), FUSED),
    ],
)
def test_large_models_and_loops_in_a_step_gain_nothing_side_by_side(shape, layer, first):
    assert candidates(steps_of(shape, layer()), together=True)[0] == first


def test_every_layout_is_timed_and_the_fastest_stays():
    choice = LayoutChoice((SCAN, HOST, FUSED))
    assert chosen(choice, SCAN, 0.2) == HOST
    assert chosen(choice, HOST, 0.15) == FUSED
    assert chosen(choice, FUSED, 0.9) == HOST  # one epoch tells
    assert choice.timed[FUSED] == 1 < choice.timed[SCAN]


def test_nothing_is_tried_that_could_not_pay_for_its_compilation():
    choice = LayoutChoice((SCAN, HOST))
    assert chosen(choice, SCAN, 0.2, left=10) == SCAN


def test_what_promises_less_needs_more_work_left():
    choice = LayoutChoice((FUSED, SCAN, HOST))
    assert chosen(choice, FUSED, 0.1, left=100) == SCAN
    assert chosen(choice, SCAN, 0.14, left=100) == FUSED
    assert choice.choose(300, 1.0) == HOST


def test_where_members_stand_in_a_way_that_is_far_behind_no_other_such_layout_is_tried():
    choice = LayoutChoice((FUSED, SCAN, HOST))
    assert chosen(choice, FUSED, 0.1) == SCAN
    assert chosen(choice, SCAN, 0.2) == FUSED
    choice = LayoutChoice((SCAN, HOST, FUSED))
    assert chosen(choice, SCAN, 0.2) == HOST
    assert chosen(choice, HOST, 0.1) == FUSED  # SCAN is far behind, but members stand so in the best one, too


def an_epoch(choice, layout, seconds, *, turns=100, compile_seconds=1.0):
    """The parts of an epoch whose steps take so many seconds in each layout: layout and number of turns."""
    parts, done = [], 0
    while done < turns:
        layout, length = choice.next_part(layout, turns_done=done, num_turns=turns, compile_seconds=compile_seconds)
        parts.append((layout, length))
        choice.record_steps(layout, seconds[layout])
        done += length
    assert done == turns
    return parts


def test_a_loop_that_is_slower_than_the_step_alone_is_left_within_a_tenth_of_an_epoch():
    choice = LayoutChoice((SCAN, HOST))
    assert an_epoch(choice, SCAN, {SCAN: 0.4, HOST: 0.1}) == [(SCAN, 10), (HOST, 10), (HOST, 80)]
    choice = LayoutChoice((SCAN, HOST))
    assert an_epoch(choice, SCAN, {SCAN: 0.1, HOST: 0.4}) == [(SCAN, 10), (HOST, 10), (SCAN, 80)]
    assert an_epoch(choice, SCAN, {SCAN: 0.1}) == [(SCAN, 100)]  # known: in one call from now on


def test_where_nothing_else_was_timed_the_step_alone_is_compiled_only_if_the_epoch_is_long():
    choice = LayoutChoice((SCAN, HOST))
    assert an_epoch(choice, SCAN, {SCAN: 0.01}) == [(SCAN, 10), (SCAN, 90)]
    assert an_epoch(LayoutChoice((SCAN, FUSED)), SCAN, {SCAN: 9.0}) == [(SCAN, 100)]  # nothing to take over


def test_a_new_layout_is_left_for_a_faster_one_that_was_timed():
    choice = LayoutChoice((HOST, SCAN))
    an_epoch(choice, HOST, {HOST: 0.001})
    assert an_epoch(choice, SCAN, {SCAN: 0.002, HOST: 0.001}) == [(SCAN, 10), (HOST, 90)]
    choice = LayoutChoice((HOST, SCAN))
    an_epoch(choice, HOST, {HOST: 0.001})
    assert an_epoch(choice, SCAN, {SCAN: 0.00105, HOST: 0.001}) == [(SCAN, 10), (SCAN, 90)]  # as good as equal


@pytest.mark.parametrize(("turns", "first"), [(1, 1), (3, 1), (46, 4), (1000, 20)])
def test_the_first_part_is_a_tenth_and_short(turns, first):
    assert an_epoch(LayoutChoice((SCAN, HOST)), SCAN, {SCAN: 0.001}, turns=turns)[0] == (SCAN, first)
    chunk = Layout("chunk", "sequential")
    assert an_epoch(LayoutChoice((chunk, HOST)), chunk, {chunk: 0.001}, turns=turns)[0][1] in (min(8, turns), 24)


def test_an_epoch_in_parts_of_several_layouts_is_the_epoch_in_one():
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    x = np.random.default_rng(0).normal(size=(22, 3)).astype("float32")
    data = read_fit_arguments(Call((x, x[:, :2]), {"batch_size": 2}))
    shapes = Shapes(data.training, None)
    building.build_symbolically(model, shapes.first_batch())
    lift = Lift(trace(model, shapes))
    state = tuple(tuple(values_of(part)) for part in variables_of(model)[:3])
    passes = {
        each: RowsPass("train", lift, layout=each, count=1, shapes=data.training.shapes[0]) for each in (SCAN, HOST)
    }
    lifted, order = passes[SCAN].lifted([lift.template]), data.training.in_order()
    tier = passes[SCAN].tiers.tier
    for each in passes.values():
        each.prepare([state], lifted, order, tier)
    expected = [each.run([state], lifted, order, tier) for each in passes.values()]
    choice = LayoutChoice((SCAN, HOST))
    choice.step_seconds[HOST] = 0.0  # nothing is faster
    parts = Parts(passes[SCAN], order, choice, 1, lambda layout: (passes[layout], lifted))
    found = parts.run([state], lifted, tier)
    assert set(parts.layouts) == {SCAN, HOST}
    assert parts.layouts[SCAN] > 0
    for each in expected:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, each)


def test_one_slow_epoch_does_not_condemn_a_layout():
    choice = LayoutChoice((SCAN, HOST))
    choice.record(SCAN, 0.9)  # while members were built
    assert chosen(choice, SCAN, 0.2) == HOST
    assert chosen(choice, HOST, 0.25) == SCAN


def test_the_fastest_layout_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYFIT_CACHE_DIR", str(tmp_path))
    assert recall("one", (SCAN, HOST)) is None
    remember("one", Remembered(HOST, (8, 2)))
    assert recall("one", (SCAN, HOST)) == Remembered(HOST, (2, 8))
    assert recall("one", (SCAN, FUSED)) is None  # no option any more
    assert recall("two", (SCAN, HOST)) is None
    monkeypatch.setenv("MANYFIT_CACHE_DIR", "off")
    assert recall("one", (SCAN, HOST)) is None


def test_a_population_grows_while_members_are_cheap_and_memory_lasts(monkeypatch):
    sizing = Sizing(None, learns=True, workers=1, cpu=False)
    sizing.record("mlp", 8, 1.0)
    assert sizing.size == 16
    sizing.record("mlp", 16, 1.1)
    assert sizing.size == 32
    sizing.record("mlp", 32, 2.6)  # the further sixteen cost more each than the first did
    assert sizing.size == 16
    monkeypatch.setattr("manyfit.training.population.sizing.free_bytes", lambda: 5 * 2**20)
    small = Sizing(None, learns=True, workers=1, cpu=False)
    small.record("mlp", 8, 1.0, bytes_per_member=2**20)
    assert small.size == 12  # four more fit


def test_members_that_come_next_are_at_hand_only_where_nothing_is_learned_and_nobody_set_a_limit():
    free = Sizing(None, learns=False, workers=2, cpu=True)
    assert (free.size, free.group, free.joined) == (8, 4, 12)
    assert Sizing(8, learns=False, workers=2, cpu=True).joined == 8
    assert Sizing(None, learns=True, workers=2, cpu=True).joined == 2
    device = Sizing(None, learns=False, workers=1, cpu=False)
    assert device.joined == device.size
    free.halve(8)
    assert (free.size, free.joined) == (4, 4)


def test_where_members_cost_a_full_run_a_sampler_that_learns_gets_no_more_than_there_are_workers():
    assert Sizing(None, learns=True, workers=2, cpu=True).size == 2
    assert Sizing(5, learns=True, workers=2, cpu=True).size == 5  # the user's word


def test_each_core_has_its_share_of_members_that_do_not_depend_on_each_other():
    sizing = Sizing(None, learns=False, workers=2, cpu=True)
    assert (sizing.size, sizing.group) == (8, 4)
    sizing.record("mlp", 8, 0.1)  # all cores are busy: more members would only wait
    assert sizing.size == 8
    assert Sizing(3, learns=False, workers=2, cpu=True).group == 2
    assert Sizing(None, learns=True, workers=2, cpu=True).group == 1
    accelerator = Sizing(None, learns=False, workers=1, cpu=False)
    assert accelerator.group == accelerator.size


@pytest.mark.parametrize(
    ("num_members", "epochs", "seconds", "compiled", "slots"),
    [
        (9, 1, None, (), 4),
        (4, 9, 0.1, (), 4),
        (3, 9, None, (), 4),
        (2, 9, None, (), 2),
        (1, 9, None, (), 1),
        (2, 1, 0.1, (4,), 4),  # compiling would take longer
        (2, 1, 0.1, (4, 1), 1),  # one on each core
        (3, 50, 0.1, (4,), 2),  # two and one, rather than three on one core
    ],
)
def test_slots_of_programs_on_cores(num_members, epochs, seconds, compiled, slots):
    assert slots_on_cores(num_members, 4, 2, epochs, seconds, 1.0, compiled) == slots


def test_halving_is_for_good():
    sizing = Sizing(None, learns=False, workers=1, cpu=False)
    assert sizing.halve(32) == 16 == sizing.size
    sizing.record("mlp", 16, 1.0)
    assert sizing.size == 16


def test_an_xla_without_the_older_emitters_still_compiles_quickly(monkeypatch):
    compile_module.quick_options.cache_clear()
    both = compile_module.quick_options()
    assert both["xla_backend_optimization_level"] == "0"
    compile_module.quick_options.cache_clear()
    lowered = type(jax.jit(abs).lower(0.0))
    honest = lowered.compile

    def older(self, compiler_options=None):
        if "xla_cpu_use_fusion_emitters" in (compiler_options or {}):
            raise RuntimeError("INVALID_ARGUMENT: no such compile option")
        return honest(self, compiler_options)

    monkeypatch.setattr(lowered, "compile", older)
    assert compile_module.quick_options() == {"xla_backend_optimization_level": "0"}
    assert compile_function(abs, (jax.numpy.array(-2.0),), effort="once").call(jax.numpy.array(-2.0)) == 2.0
    compile_module.quick_options.cache_clear()
