"""Random numbers drawn without JAX's loop are the numbers that JAX draws."""

import contextlib
import functools
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from marks import needs_a_cpu, needs_jax

pytestmark = needs_jax
if keras.backend.backend() == "jax":
    import jax
    import jax.numpy as jnp
    from keras.src.backend.jax import random as keras_random

    from manyfit.training.keras_internals.draws import quick_draws, threefry, written_out


@pytest.mark.parametrize(
    ("key", "counts", "answer"),
    [
        ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_known_answers_of_the_authors(key, counts, answer):
    found = threefry(tuple(map(np.uint32, key)), tuple(map(np.uint32, counts)))
    assert tuple(map(int, found)) == answer


@needs_a_cpu
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (128, 33), (0, 4)])
def test_bits_are_those_of_jax(shape, dtype):
    for seed in (0, 1, 2**31):
        key = jax.random.PRNGKey(seed)
        np.testing.assert_array_equal(
            jax.random.bits(written_out(key), shape, dtype), jax.random.bits(key, shape, dtype)
        )


@needs_a_cpu
def test_so_are_those_of_mapped_and_of_split_keys():
    keys = jax.random.split(jax.random.PRNGKey(3), 5)
    draw = lambda key: jax.random.normal(jax.random.split(key)[1], (4, 3))  # noqa: E731
    found = jax.jit(jax.vmap(lambda key: draw(written_out(key))))(keys)
    np.testing.assert_array_equal(found, jax.jit(jax.vmap(draw))(keys))


@contextlib.contextmanager
def words_of_64_bits():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)  # `jax.enable_x64` is younger than the oldest JAX that is allowed
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@needs_a_cpu
def test_words_of_64_bits_are_drawn_by_jax_itself():
    with words_of_64_bits():
        key = jax.random.PRNGKey(1)
        np.testing.assert_array_equal(
            jax.random.bits(written_out(key), (9,), "uint64"), jax.random.bits(key, (9,), "uint64")
        )


def test_keys_that_jax_draws_from_in_another_way_stay_as_they_are():
    typed = jax.random.key(0)
    assert written_out(typed) is typed
    raw = jax.random.PRNGKey(0)
    with jax.threefry_partitionable(False):
        assert written_out(raw) is raw
    with jax.default_prng_impl("rbg"):
        assert written_out(raw) is raw


DRAWS = {
    "uniform": lambda: keras.random.uniform((5, 4), seed=1),
    "normal": lambda: keras.random.normal((5, 4), seed=1),
    "truncated_normal": lambda: keras.random.truncated_normal((5, 4), seed=1),
    "randint": lambda: keras.random.randint((9,), 0, 100, seed=1),
    "categorical": lambda: keras.random.categorical(np.log([[0.2, 0.5, 0.3]]), 20, seed=1),
    "shuffle": lambda: keras.random.shuffle(np.arange(20), seed=1),
    "dropout": lambda: keras.random.dropout(np.ones((6, 6), "float32"), 0.5, seed=1),
    "gamma": lambda: keras.random.gamma((5,), 2.0, seed=1),
    "binomial": lambda: keras.random.binomial((5,), 10.0, 0.3, seed=1),
    "beta": lambda: keras.random.beta((5,), 2.0, 3.0, seed=1),
}


@pytest.mark.parametrize("name", DRAWS)
def test_keras_draws_the_same_numbers_in_less_time(name):
    plain = np.asarray(DRAWS[name]())
    with quick_draws():
        quick = np.asarray(DRAWS[name]())
    np.testing.assert_array_equal(quick, plain)
    np.testing.assert_array_equal(np.asarray(DRAWS[name]()), plain)


SHAPES = [(), (1,), (3,), (5, 4), (3, 3, 2, 5), (784, 33), (0, 4), (61, 70)]
INITIALIZERS = ["glorot_uniform", "he_normal", "random_uniform", "random_normal", "zeros", "ones", "orthogonal"]


@needs_a_cpu
@pytest.mark.parametrize("name", INITIALIZERS)
def test_first_weights_are_those_of_keras_in_every_shape(name):
    for shape in SHAPES if name != "orthogonal" else [(3, 5), (16, 64), (64, 16), (3, 3, 4, 8)]:
        for dtype in ("float32", "bfloat16"):
            if name == "orthogonal" and dtype == "bfloat16":
                continue  # neither has a QR decomposition of it
            make = lambda name=name: keras.initializers.get({"class_name": name, "config": {}})  # noqa: E731
            keras.utils.set_random_seed(3)
            plain = make()(shape, dtype=dtype)
            keras.utils.set_random_seed(3)
            with quick_draws():
                quick = make()(shape, dtype=dtype)
            assert (quick.dtype, quick.shape) == (plain.dtype, plain.shape)
            np.testing.assert_array_equal(np.asarray(quick, "float32"), np.asarray(plain, "float32"))


@needs_a_cpu
def test_weights_of_new_shapes_compile_nothing_new():
    compiled, listens = [], []

    def listen(event, seconds, **_):
        compiled.extend([event] if listens else [])

    def build(units):
        layer = keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed=units))
        layer.build((None, 31))
        keras.optimizers.Adam().build(layer.trainable_variables)

    with quick_draws():
        build(34)
        jax.monitoring.register_event_duration_secs_listener(listen)  # older versions cannot take it away again
        listens.append(True)
        for units in (35, 36, 37):
            build(units)
        listens.clear()
    assert "/jax/core/compile/backend_compile_duration" not in compiled


@needs_a_cpu
def test_only_this_thread_draws_so_and_only_inside():
    seen = {}

    def traced(name):
        seen[name] = "while" in str(jax.jit(lambda: keras.random.uniform((64,), seed=1)).lower().as_text())

    with pytest.raises(ValueError, match="inside"), quick_draws():
        traced("inside")
        other = threading.Thread(target=traced, args=("other thread",))
        other.start()
        other.join()
        raise ValueError("inside")
    traced("after")
    assert seen == {"inside": False, "other thread": True, "after": True}


def test_weights_of_members_are_those_of_a_plain_build():
    def build():
        keras.utils.set_random_seed(4)
        layers = keras.layers
        parts = [layers.Input((6, 3)), layers.LSTM(5), layers.Dense(4, kernel_initializer="he_normal")]
        return keras.Sequential(parts).get_weights()

    plain = build()
    with quick_draws():
        quick = build()
    for one, other in zip(quick, plain, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_seed_generator_goes_on_as_it_did():
    states = []
    for scope in (quick_draws, contextlib.nullcontext):
        generator = keras.random.SeedGenerator(7)
        with scope():
            draws = [np.asarray(keras.random.normal((3,), seed=generator)) for _ in range(2)]
        states.append((np.asarray(generator.state.value), *draws))
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not jnp.array_equal(states[0][1], states[0][2])


def test_keras_makes_its_keys_with_the_function_that_is_replaced():
    """Without it, draws inside of `quick_draws` would be as slow as outside, and nobody would notice."""
    asked = []
    own = keras_random.jax_draw_seed
    keras_random.jax_draw_seed = lambda seed: asked.append(seed) or own(seed)
    try:
        for draw in DRAWS.values():
            before = len(asked)
            draw()
            assert len(asked) > before
    finally:
        keras_random.jax_draw_seed = own


def test_keras_has_its_own_function_back_afterwards():
    own = keras_random.jax_draw_seed
    with quick_draws():
        assert keras_random.jax_draw_seed is not own
        with quick_draws():
            pass
        assert keras_random.jax_draw_seed is not own
    assert keras_random.jax_draw_seed is own
    with pytest.raises(ValueError, match="inside"), quick_draws():
        raise ValueError("inside")
    assert keras_random.jax_draw_seed is own


def test_the_last_thread_that_leaves_gives_it_back():
    own, inside, leave = keras_random.jax_draw_seed, threading.Event(), threading.Event()

    def stay():
        with quick_draws():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=stay)
    with quick_draws():
        thread.start()
        assert inside.wait(30)
    assert keras_random.jax_draw_seed is not own
    leave.set()
    thread.join()
    assert keras_random.jax_draw_seed is own


def test_what_somebody_else_puts_there_stays():
    own = keras_random.jax_draw_seed
    theirs = functools.partial(own)
    try:
        with quick_draws():
            keras_random.jax_draw_seed = theirs
        assert keras_random.jax_draw_seed is theirs
    finally:
        keras_random.jax_draw_seed = own


_TOO_LARGE = """
import resource
import manyfit as kt
import jax
import keras
from manyfit.training.keras_internals.draws import quick_draws

resource.setrlimit(resource.RLIMIT_AS, (9 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
with quick_draws():
    try:
        # JAX 0.12 draws them later, and has the error for who waits for them.
        jax.block_until_ready(keras.initializers.RandomNormal(seed=1)((60_000, 60_000)))
    except Exception as error:
        print("told:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_weights_that_find_no_memory_are_an_error_and_not_the_end_of_the_process():
    done = subprocess.run([sys.executable, "-c", _TOO_LARGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "told:" in done.stdout and "memory" in done.stdout, done.stderr[-500:]
