"""How Keras draws, quicker: JAX's random numbers on a CPU without its loop.

The same bits, in a fifth of the time, compilation and drawing alike. `quick_draws` is the way in.

JAX writes its generator, Threefry-2x32 with 20 rounds, for a CPU as a loop of which each turn passes over the whole
array. Written out, all rounds are one pass whose numbers stay in registers, and a loop less to compile. Weights are
drawn once per layer, dropout's masks in every step.

JAX compiles a draw for each shape, too, and so it does the zeros of biases and of optimizers: .3 processor seconds for
a model of two layers of new widths. Element n of a draw is made of the hash of n, so a longer draw begins with the
shorter one. First weights are cut from draws of a few rounded lengths, zeros are NumPy's: .1 seconds.

Source: Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax._src.core import trace_state_clean
from jax.extend import random as jax_random
from keras.src.backend.jax import numpy as keras_numpy
from keras.src.backend.jax import random as keras_random

from manyfit.training.keras_internals import Swapped

Words = jax.Array | np.ndarray | np.uint32
"""One or many words of type uint32."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_ITS_OWN = jax_random.threefry_prng_impl
# The XLA of JAX 0.12 rounds a normal draw that it fuses with its bits otherwise than one behind JAX's loop, 1e-8 apart.
# Older ones do not, and fused is quicker.
_KEEPS_BITS_APART = jax.__version_info__ >= (0, 11)


def threefry(key: tuple[Words, Words], counts: tuple[Words, Words]) -> tuple[jax.Array, jax.Array]:
    """The Threefry-2x32 hash with 20 rounds.

    Args:
        key: two words of type uint32.
        counts: two arrays of one shape and that type.

    Returns:
        Two arrays of the same shape and type.

    Example: the first known answer that the authors publish.

    >>> import numpy as np
    >>> zero = np.uint32(0)
    >>> [f"{int(word):08x}" for word in threefry((zero, zero), (zero, zero))]
    ['6b200159', '99ba4efe']
    """
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    first, second = jnp.asarray(counts[0]) + keys[0], jnp.asarray(counts[1]) + keys[1]
    for group in range(5):
        for distance in _ROTATIONS[group % 2]:
            first = first + second
            second = (second << np.uint32(distance)) | (second >> np.uint32(32 - distance))
            second = first ^ second
        first = first + keys[(group + 1) % 3]
        second = second + keys[(group + 2) % 3] + np.uint32(group + 1)
    return first, second


def _random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    """Bits as JAX numbers them: element n of the array is made of the hash of n."""
    size = math.prod(shape)
    if bit_width > 32 or size > 1 << 32:  # the hash's words are no longer enough
        return _ITS_OWN.random_bits(key, bit_width, shape)
    numbers = jax.lax.iota(jnp.uint32, size).reshape(shape)
    first, second = threefry((key[0], key[1]), (jnp.zeros_like(numbers), numbers))
    bits = jax.lax.convert_element_type(first ^ second, f"uint{bit_width}")
    return jax.lax.optimization_barrier(bits) if _KEEPS_BITS_APART else bits


def strided_draw(
    seed: jax.Array, keep: jax.Array, leading: Sequence[int], columns: jax.Array, num_columns: jax.Array
) -> jax.Array:
    """A mask as `jax.random.bernoulli` draws it for an array with fewer columns, in the places of a wider one.

    JAX makes element n of an array of the hash of n, counted row by row. A member whose units are some of the columns
    of a wider array has other numbers for them than the wider array would give; here they are its own.

    Args:
        seed: two words, as Keras's seed generators give them.
        keep: the probability of True, float32.
        leading: the mask's shape without its last axis.
        columns: for each column of the wider array the number of the member's own, any number where it has none.
        num_columns: how many the member has, uint32.

    Returns:
        Booleans, of shape (\\*leading, len(columns)).

    Example: a mask of two columns, in the places 0 and 2 of three.

    >>> import jax, jax.numpy as jnp
    >>> seed = jax.random.key_data(jax.random.key(3))
    >>> own = jax.random.bernoulli(seed, 0.5, (4, 2))
    >>> wide = strided_draw(seed, jnp.float32(0.5), (4,), jnp.array([0, 0, 1], "uint32"), jnp.uint32(2))
    >>> bool((wide[:, ::2] == own).all())
    True
    """
    rows = jax.lax.iota(jnp.uint32, math.prod(leading)).reshape((*leading, 1))
    numbers = rows * num_columns + columns
    first, second = threefry((seed[0], seed[1]), (jnp.zeros_like(numbers), numbers))
    # A number in [0, 1) of 23 random bits, as JAX makes it: those of a float in [1, 2), less 1.
    words = ((first ^ second) >> np.uint32(9)) | np.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(words, jnp.float32) - np.float32(1) < keep


def draws_by_default() -> bool:
    """Whether JAX draws as it does by its defaults, which `strided_draw` repeats."""
    settings = jax.config
    is_threefry = getattr(settings, "jax_default_prng_impl", None) == "threefry2x32"
    return bool(is_threefry and getattr(settings, "jax_threefry_partitionable", False))


_WRITTEN_OUT = jax_random.define_prng_impl(
    key_shape=_ITS_OWN.key_shape,
    seed=_ITS_OWN.seed,
    split=_ITS_OWN.split,
    random_bits=_random_bits,
    fold_in=_ITS_OWN.fold_in,
    name="threefry2x32, rounds written out",
    tag="fry20",
)


def written_out(key: jax.Array) -> jax.Array:
    """A key that draws what this one draws; itself where JAX draws otherwise than by its default.

    Args:
        key: as JAX's functions take it.
    """
    is_raw = getattr(key, "dtype", None) == np.uint32 and np.shape(key) == _ITS_OWN.key_shape
    if jax.default_backend() != "cpu" or not draws_by_default() or not is_raw:
        return key
    return jax.random.wrap_key_data(key, impl=_WRITTEN_OUT)


_draws_quickly = contextvars.ContextVar("draws_quickly", default=False)


def _rounded(count: int) -> int:
    """A length not far above a count, one of a few: powers of two, and eight steps between those that are large."""
    power = 1 << max(0, count - 1).bit_length()
    step = power // 16 if power > _MANY else power
    return max(_FEW, -(-count // step) * step)


# So few numbers are drawn sooner than a further length is compiled, so many later.
_FEW, _MANY = 1 << 12, 1 << 20


def _is_at_hand() -> bool:
    """Whether what is asked for is an array for the machine's own memory, and no part of what JAX traces."""
    return _draws_quickly.get() and jax.default_backend() == "cpu" and trace_state_clean()


def _fetched(array: Any) -> np.ndarray:
    # Waited for first: NumPy's view of an array that found no memory ends the process, where JAX has an error.
    return np.asarray(jax.block_until_ready(array))


def _cut(draw: Callable[..., Any]) -> Callable[..., Any]:
    """A drawing function of Keras's that compiles for a few lengths instead of for each shape."""

    @functools.wraps(draw)
    def cut(shape: Any, *args: Any, **kwargs: Any) -> Any:
        sizes = tuple(shape)
        count = math.prod(sizes) if all(isinstance(size, int) for size in sizes) else 0
        if not count or not _is_at_hand() or not draws_by_default():
            return draw(shape, *args, **kwargs)
        flat = _fetched(draw((_rounded(count),), *args, **kwargs))
        return jax.device_put(flat[:count].reshape(sizes))

    return cut


def _of_numpy(fill: Callable[..., Any]) -> Callable[..., Any]:
    """Keras's function that makes an array of zeros or ones, without a compilation per shape."""
    known: dict[tuple[str, str, str], np.generic] = {}

    @functools.wraps(fill)
    def filled(shape: Any, dtype: Any = None) -> Any:
        if not _is_at_hand():
            return fill(shape, dtype)
        settings = str(dtype), keras.config.floatx(), str(jax.dtypes.canonicalize_dtype(np.float64))
        if settings not in known:
            known[settings] = np.asarray(fill((1,), dtype))[0]  # to ask Keras and JAX for nothing but the type
        return jax.device_put(np.full(shape, known[settings]))

    return filled


def _orthogonal(initialise: Callable[..., Any]) -> Callable[..., Any]:
    """Keras's orthogonal initialiser, of which all but the decomposition is NumPy's: six small compilations less."""

    @functools.wraps(initialise)
    def orthogonal(self: Any, shape: Any, dtype: Any = None) -> Any:
        if len(shape) < 2 or not _is_at_hand():
            return initialise(self, shape, dtype)
        num_rows, num_columns = math.prod(shape[:-1]), shape[-1]
        longer, shorter = max(num_rows, num_columns), min(num_rows, num_columns)
        drawn = keras.random.normal((longer, shorter), seed=self.seed, dtype=dtype)
        q, r = map(_fetched, keras.ops.qr(drawn))
        # Which of the two signs a column has, is the decomposition's choice: with that of `r` all are equally likely.
        signed = q * np.sign(np.diag(r))
        return jax.device_put(self.gain * (signed.T if num_rows < num_columns else signed).reshape(shape))

    return orthogonal


def _quick_where_asked(key_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(key_of)
    def quick_key_of(seed: object) -> Any:
        key = key_of(seed)
        return written_out(key) if _draws_quickly.get() else key

    return quick_key_of


_swapped = Swapped(
    (keras_random, "jax_draw_seed", _quick_where_asked),
    (keras_random, "uniform", _cut),
    # There the last bit of a normal draw depends on the length, too.
    *([] if _KEEPS_BITS_APART else [(keras_random, "normal", _cut), (keras_random, "truncated_normal", _cut)]),
    (keras.initializers.Orthogonal, "__call__", _orthogonal),
    (keras_numpy, "zeros", _of_numpy),
    (keras_numpy, "ones", _of_numpy),
)


@contextlib.contextmanager
def quick_draws() -> Iterator[None]:
    """What Keras draws or traces in here, in this thread, draws the same numbers in less time.

    The functions with which Keras makes a key of a seed and draws weights are others while any thread is inside, and
    Keras's own before and after. Other threads draw as ever meanwhile: the other functions look at who is asking.
    """
    with _swapped.inside():
        token = _draws_quickly.set(True)
        try:
            yield
        finally:
            _draws_quickly.reset(token)
