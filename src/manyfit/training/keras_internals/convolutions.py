"""How Keras convolves and pools on a CPU, quicker: in the forms of `convolution_forms`.

`quick_convolutions` is the way in.

What comes out is equal to what Keras computes, in the same types, to rounding. Before a kind of call is answered by one
of those forms for the first time it is compared with Keras's own, forward and backward, on small arrays; a kind that is
not equal stays Keras's own. The verdicts are remembered on disk.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras.src.backend.jax import nn as keras_nn

from manyfit.core.files import cache_folder, replaced
from manyfit.training.keras_internals import Swapped, convolution_forms
from manyfit.training.keras_internals.convolution_forms import (
    Pads,
    Sizes,
    Window,
    convolved,
    largest_of_windows,
    spread,
)
from manyfit.training.keras_internals.programs import quick_options

IN_QUICK_FORMS = True
"""Whether `quick_convolutions` does anything."""

Function: TypeAlias = Callable[..., Any]
Steps: TypeAlias = int | Sequence[int]
"""Of all axes, or of each."""


def _per_axis(value: Steps, num: int) -> Sizes:
    return (value,) * num if isinstance(value, int) else tuple(value)


def _is_channels_first(data_format: str | None) -> bool:
    return (data_format or keras.config.image_data_format()) == "channels_first"


def _on_channels_last(
    function: Callable[[jax.Array], jax.Array], image: jax.Array, data_format: str | None
) -> jax.Array:
    if _is_channels_first(data_format):
        return jnp.moveaxis(function(jnp.moveaxis(image, 1, -1)), -1, 1)
    return function(image)


def _pads_of(image: Sizes, reach: Sizes, strides: Sizes, padding: str | Sequence[tuple[int, int]]) -> Pads:
    if isinstance(padding, str):
        # Keras says "same" where JAX says "SAME".
        padding = jax.lax.padtype_to_pads(image, reach, strides, padding.upper())
    return tuple((int(before), int(after)) for before, after in padding)


def _conv(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Steps = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Steps = 1,
) -> jax.Array:
    sizes, num = kernel.shape[:-2], kernel.ndim - 2

    def of(image: jax.Array) -> jax.Array:
        window = Window(sizes, _per_axis(strides, num), ((0, 0),) * num, _per_axis(dilation_rate, num))
        pads = _pads_of(image.shape[1:-1], window.reach, window.strides, padding)
        groups = image.shape[-1] // kernel.shape[-2]
        return convolved(image, kernel, dataclasses.replace(window, pads=pads, groups=groups))

    return _on_channels_last(of, inputs.astype(kernel.dtype), data_format)


def _depthwise_conv(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Steps = 1,
    padding: str = "valid",
    data_format: str | None = None,
    dilation_rate: Steps = 1,
) -> jax.Array:
    # As Keras has it: filters of a channel stand side by side, and each channel is a group.
    filters = kernel.reshape(*kernel.shape[:-2], 1, -1)
    return _conv(inputs, filters, strides, padding, data_format, dilation_rate)


def _conv_transpose(
    inputs: jax.Array,
    kernel: jax.Array,
    strides: Steps = 1,
    padding: str = "valid",
    output_padding: Steps | None = None,
    data_format: str | None = None,
    dilation_rate: Steps = 1,
) -> jax.Array:
    sizes, num = kernel.shape[:-2], kernel.ndim - 2
    arguments = inputs.shape, kernel.shape, strides, padding, output_padding, dilation_rate
    around = keras_nn.compute_conv_transpose_padding_args_for_jax(*arguments)

    def of(image: jax.Array) -> jax.Array:
        window = Window(sizes, _per_axis(strides, num), ((0, 0),) * num, _per_axis(dilation_rate, num))
        # Those of the convolution of which this is the transpose.
        pads = tuple((reach - 1 - a, reach - 1 - b) for reach, (a, b) in zip(window.reach, around, strict=True))
        given = zip(image.shape[1:-1], window.strides, window.reach, pads, strict=True)
        shape = [(size - 1) * stride + reach - sum(pad) for size, stride, reach, pad in given]
        whole = (image.shape[0], *shape, kernel.shape[-2])
        return spread(image, kernel, dataclasses.replace(window, pads=pads), whole)

    return _on_channels_last(of, inputs, data_format)


def _max_pool(
    inputs: jax.Array,
    pool_size: Steps,
    strides: Steps | None = None,
    padding: str = "valid",
    data_format: str | None = None,
) -> jax.Array:
    num, first = inputs.ndim - 2, _is_channels_first(data_format)
    sizes = _per_axis(pool_size, num)
    if strides is not None and _per_axis(strides, num) != sizes:
        raise NotImplementedError("windows that overlap")
    pads = _pads_of(inputs.shape[2:] if first else inputs.shape[1:-1], sizes, sizes, padding)
    if first:
        return largest_of_windows(inputs, (1, 1, *sizes), ((0, 0), (0, 0), *pads))
    return largest_of_windows(inputs, (1, *sizes, 1), ((0, 0), *pads, (0, 0)))


_OURS: dict[str, Function] = {
    "conv": _conv,
    "depthwise_conv": _depthwise_conv,  # `separable_conv` calls these two, by their names in Keras's module
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
}

# ---------------------------------------------------------------------------------------------------------------------
# Where they stand in place of Keras's, and only where they are equal

_is_quick = contextvars.ContextVar("convolves_quickly", default=False)


@contextlib.contextmanager
def quick_convolutions() -> Iterator[None]:
    """What Keras convolves or traces in here, in this thread, on a CPU, comes out the same in less time.

    Keras's own functions are others while any thread is inside. Other threads convolve as ever meanwhile.
    """
    with _swapped.inside():
        token = _is_quick.set(IN_QUICK_FORMS and jax.default_backend() == "cpu")
        try:
            yield
        finally:
            _is_quick.reset(token)


def are_quick() -> bool:
    """Whether this thread is inside of `quick_convolutions`, on a CPU."""
    return _is_quick.get()


def _quick_where_asked(own: Function) -> Function:
    ours = _OURS[own.__name__]
    takes = inspect.signature(ours)

    @functools.wraps(own)
    def function(*args: Any, **kwargs: Any) -> jax.Array:
        if not _is_quick.get():
            return own(*args, **kwargs)
        try:
            arguments = dict(takes.bind(*args, **kwargs).arguments)
        except TypeError:  # it takes what only another version of Keras has
            return own(*args, **kwargs)
        arrays = [arguments.pop(name) for name in ("inputs", "kernel") if name in arguments]
        call = _Call(own, ours, arguments)
        return call(*arrays) if call.is_covered(arrays) else own(*args, **kwargs)

    return function


_swapped = Swapped(*((keras_nn, name, _quick_where_asked) for name in _OURS))


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call of a function of Keras's that ours may answer.

    Attributes:
        own: Keras's.
        ours: in its place.
        settings: the arguments that are no arrays.
    """

    own: Function
    ours: Function
    settings: Mapping[str, Any]

    def __call__(self, *arrays: jax.Array) -> jax.Array:
        return self.ours(*map(jnp.asarray, arrays), **self.settings)

    def is_covered(self, arrays: Sequence[Any]) -> bool:
        """Whether both answer the same, backward, too: computed once for each kind of call, and remembered."""
        if not all(hasattr(each, "shape") and jnp.issubdtype(each.dtype, jnp.floating) for each in arrays):
            return False
        # What is wrong in a call is said by Keras here.
        jax.eval_shape(functools.partial(self.own, **self.settings), *map(_struct_of, arrays))
        small = self._smaller([array.shape for array in arrays])
        structs = [jax.ShapeDtypeStruct(shape, array.dtype) for shape, array in zip(small, arrays, strict=True)]
        return _verdict(
            f"{self.own.__name__} {structs} {sorted(self.settings.items())} {keras.config.image_data_format()}",
            lambda: self._agrees(structs),
        )

    def _smaller(self, shapes: Sequence[Sizes]) -> list[Sizes]:
        """Shapes of small arrays for which the call is of the same kind: it pads as much, and takes the same form."""
        name, get = self.own.__name__, self.settings.get
        image, num = list(shapes[0]), len(shapes[0]) - 2
        first = 2 if _is_channels_first(get("data_format")) else 1
        sizes = _per_axis(get("pool_size", 1), num) if name == "max_pool" else shapes[1][:-2]
        strides = _per_axis(get("strides") or (sizes if name == "max_pool" else 1), num)
        for axis, size, stride, step in zip(
            range(first, first + num), sizes, strides, _per_axis(get("dilation_rate", 1), num), strict=True
        ):
            reach = (size - 1) * step + 1
            image[axis] = min(image[axis], reach + stride + (image[axis] - reach) % stride)
        image[0] = min(image[0], 2)
        channels = 3 - first if first == 2 else num + 1
        if name == "max_pool":
            image[channels] = min(image[channels], 2)
            return [tuple(image)]
        inner, outer = shapes[1][-2:]
        if name == "conv":
            given, groups = image[channels], image[channels] // inner
            few = min(groups, 2)
            image[channels] = few * min(inner, 4)
            # With few channels the form depends on the number of filters.
            outer = outer if given < 4 else few * min(outer // groups, 2)
            return [tuple(image), (*sizes, min(inner, 4), outer)]
        image[channels] = min(image[channels], 2)
        return [tuple(image), (*sizes, min(inner, 2), min(outer, 2))]

    def _agrees(self, structs: Sequence[jax.ShapeDtypeStruct]) -> bool:
        # Small whole numbers: sums of their products are exact in any order, and many are equal within a window.
        draws = np.random.default_rng(0)
        arrays = [draws.integers(-1, 2, struct.shape).astype(struct.dtype) for struct in structs]

        def forward_and_backward(function: Function, arrays: Sequence[jax.Array]) -> Any:
            answer, back = jax.vjp(functools.partial(function, **self.settings), *arrays)
            gradient = np.random.default_rng(1).integers(-1, 2, answer.shape).astype(answer.dtype)
            return answer, back(gradient)

        try:
            both = jax.jit(lambda *arrays: [forward_and_backward(each, arrays) for each in (self.own, self.ours)])
            expected, found = both.lower(*arrays).compile(quick_options())(*arrays)
        except Exception:  # what one of them does not do is not covered
            return False
        pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
        return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def _struct_of(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


_verdicts: dict[str, bool] = {}


def _verdict(kind: str, compute: Callable[[], bool]) -> bool:
    """What was found of a kind of call, by this process or another; computed where nothing was."""
    if kind in _verdicts:
        return _verdicts[kind]
    folder, path = cache_folder("convolutions"), None
    if folder is not None:
        versions = f"{jax.__version__} {keras.__version__} {_source()}"
        path = folder / f"{hashlib.sha256(f'{kind} {versions}'.encode()).hexdigest()[:24]}.txt"
        with contextlib.suppress(OSError):
            _verdicts[kind] = path.read_text() == "equal"
            return _verdicts[kind]
    found = _verdicts[kind] = compute()
    if path is not None:
        with contextlib.suppress(OSError), replaced(path, is_shared=True) as partial:
            partial.write_text("equal" if found else "different")
    return found


@functools.cache
def _source() -> str:
    """Our functions' text as a short name: what was found of others is not known of these."""
    text = b"".join(Path(file).read_bytes() for file in (__file__, convolution_forms.__file__))
    return hashlib.sha256(text).hexdigest()[:16]
