"""Convolutions and pooling on a CPU in forms for which XLA has fast code: the same numbers as `jax.lax`'s, to rounding.

What each form is worth, in processor milliseconds of one thread for a batch of 64, forward and backward inside a loop,
JAX 0.10.2 (a plain `lax` function -> the form):

- **Gradients are convolutions of the plain kind.** XLA hands a convolution to Eigen only if its axes stand in the
  usual order, and brings them into that order at the top of a program alone, not in the body of a loop. Those that
  JAX derives as gradients do not stand so, and run there as plain loops over numbers. Here they are written in the
  usual order: 3x3, 32 to 64 channels at 16x16 1,144 -> 30; 5x5, 32 to 32 channels at 14x14 433 -> 19.
- **Few input channels**: patches times a matrix, since Eigen reads channels in fours: 3x3 at 28x28, 1 to 16 channels,
  forward 2.5 -> .9; 3 to 24 channels at 32x32 15 -> 3.1. Such patches are small.
- **A kernel of one pixel** is a matrix product: 32 to 64 channels at 14x14 123 -> 2.7.
- **Depthwise**: the sum of shifted images, each times its weights: 3x3, 16 channels at 28x28 430 -> 11.
- **Strides backward, and transposed convolutions forward**: a product, whose parts are added up where they overlap:
  5x5, 32 to 16 channels from 7x7 to 14x14 89 -> 24.
- **In three dimensions**: shifts along the first axis as further channels of a convolution in two: 3x3x3, 16 to 16
  channels at 8x8x8, batch of 16, 117 -> 13.
- **Largest of windows that do not overlap**: the place of each largest number is known from the forward pass: 2x2 at
  28x28x16 6.5 -> 1.0. Where several are equal, the gradient goes to the first in the window, as it does in XLA.
  Windows that overlap, and means, are not quicker in any other form that was tried, and stay Keras's own.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Sizes: TypeAlias = tuple[int, ...]
Pads: TypeAlias = tuple[tuple[int, int], ...]

_WIDEST_PATCH = 32  # numbers of a patch
_MAX_BYTES = 1 << 26  # of what a transposed convolution adds up; above it the batch is split


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel moves over an image of the axes batch, space, channels.

    Attributes:
        kernel: its sizes.
        strides: steps between two places.
        pads: zeros before and after each axis; negative ones cut off.
        dilation: steps between two weights.
        groups: of channels, each with weights of its own.
    """

    kernel: Sizes
    strides: Sizes
    pads: Pads
    dilation: Sizes
    groups: int = 1

    @property
    def reach(self) -> Sizes:
        """Pixels from a kernel's first weight to its last."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilation, strict=True))

    def places(self, image: Sizes) -> Sizes:
        """The sizes of what comes out."""
        spans = zip(image, self.pads, self.reach, self.strides, strict=True)
        return tuple((size + sum(pads) - reach) // stride + 1 for size, pads, reach, stride in spans)


# ---------------------------------------------------------------------------------------------------------------------
# Convolutions


def convolved(image: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A convolution in the form that is quick for it.

    Args:
        image: batch, space, channels.
        kernel: space, channels of a group, filters.
        window: how they meet.
    """
    channels, filters = kernel.shape[-2:]
    if channels == 1 and window.groups > 1:
        return _depthwise(image, kernel.reshape(*window.kernel, window.groups, -1), window)
    if math.prod(window.kernel) == 1 and window.groups == 1:
        (pixels,) = _shifted(image, window)
        return _rows(pixels, kernel.reshape(channels, filters))
    if len(window.kernel) == 3 and window.groups == 1:
        return _in_two_dimensions(image, kernel, window)
    return _convolve(image, kernel, window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(image: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    channels, filters = kernel.shape[-2:]
    narrow = channels < 4 and math.prod(window.kernel) * channels <= _WIDEST_PATCH
    # Two exceptions of Eigen's: from 24 filters on it is quick with one channel and with two, and not with three.
    if narrow and window.groups == 1 and (filters < 24 or channels == 3):
        return _rows(_patches(image, window), kernel.reshape(-1, filters))
    return _by_eigen(image, kernel, window)


def _by_eigen(image: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    space = "DHW"[-len(window.kernel) :]
    return jax.lax.conv_general_dilated(
        image,
        kernel,
        window.strides,
        window.pads,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        feature_group_count=window.groups,
    )


def _convolve_forward(
    image: jax.Array, kernel: jax.Array, window: Window
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(image, kernel, window), (image, kernel)


def _convolve_backward(
    window: Window, known: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    image, kernel = known
    return _gradient_of_image(image, kernel, window, gradient), _gradient_of_kernel(image, kernel, window, gradient)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _gradient_of_image(image: jax.Array, kernel: jax.Array, window: Window, gradient: jax.Array) -> jax.Array:
    """The gradient convolved with the turned kernel, its channels and filters exchanged."""
    num, groups = len(window.kernel), window.groups
    if max(window.strides) > 1 and groups == 1:
        return spread(gradient, kernel, window, image.shape)
    space = tuple(range(num))
    # ..., channels, groups, filters -> ..., filters, groups, channels
    apart = jnp.flip(kernel, space).reshape(*window.kernel, kernel.shape[-2], groups, -1)
    turned = apart.transpose(*space, num + 2, num + 1, num).reshape(*window.kernel, -1, image.shape[-1])
    if max(window.strides) > 1:
        zeros = [(0, 0, 0), *((0, 0, stride - 1) for stride in window.strides), (0, 0, 0)]
        gradient = jax.lax.pad(gradient, np.zeros((), gradient.dtype), zeros)
    before = [reach - 1 - pads[0] for reach, pads in zip(window.reach, window.pads, strict=True)]
    sizes = zip(image.shape[1:-1], window.reach, gradient.shape[1:-1], before, strict=True)
    after = [size + reach - 1 - given - pad for size, reach, given, pad in sizes]
    moved = Window(window.kernel, (1,) * num, tuple(zip(before, after, strict=True)), window.dilation, groups)
    return _convolve(gradient, turned, moved)


def _gradient_of_kernel(image: jax.Array, kernel: jax.Array, window: Window, gradient: jax.Array) -> jax.Array:
    """The image convolved with the gradient, the batch in place of the channels: strides and dilation change sides."""
    num, groups = len(window.kernel), window.groups
    space = tuple(range(1, num + 1))
    apart = image.reshape(*image.shape[:-1], groups, -1)
    # batch, ..., groups, channels -> channels, ..., groups with a batch each
    images = apart.transpose(num + 2, *space, num + 1, 0).reshape(kernel.shape[-2], *image.shape[1:-1], -1)
    places = gradient.shape[1:-1]
    steps = zip(image.shape[1:-1], window.reach, window.strides, places, window.pads, strict=True)
    # What is left of the image behind the kernel's last place meets no weight.
    after = [reach + (place - 1) * stride - size - pads[0] for size, reach, stride, place, pads in steps]
    pads = tuple((pads[0], pad) for pads, pad in zip(window.pads, after, strict=True))
    moved = Window(places, window.dilation, pads, window.strides, groups)
    found = _convolve(images, gradient.transpose(*space, 0, num + 1), moved)
    return found.transpose(*space, 0, num + 1)


def _in_two_dimensions(image: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A convolution in three: what lies along the first axis under a weight of the kernel becomes channels."""
    (depth, *kernel_sizes), (stride, *strides), (pads, *rest), (step, *dilation) = (
        window.kernel, window.strides, window.pads, window.dilation,
    )  # fmt: skip
    along = Window((depth, 1, 1), (stride, 1, 1), (pads, (0, 0), (0, 0)), (step, 1, 1))
    planes = _patches(image, along)
    batch, depth = planes.shape[:2]
    flat = Window(tuple(kernel_sizes), tuple(strides), tuple(rest), tuple(dilation))
    weights = kernel.transpose(1, 2, 0, 3, 4).reshape(*flat.kernel, -1, kernel.shape[-1])
    found = _convolve(planes.reshape(-1, *planes.shape[2:]), weights, flat)
    return found.reshape(batch, depth, *found.shape[1:])


def _depthwise(image: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Each channel with its own filters; kernel: space, channels, filters of each."""
    channels, filters = kernel.shape[-2:]
    weights = kernel.reshape(-1, channels, filters)
    if filters == 1:
        parts = [shifted * weights[at, :, 0] for at, shifted in enumerate(_shifted(image, window))]
        return functools.reduce(jnp.add, parts)
    parts = [shifted[..., None] * weights[at] for at, shifted in enumerate(_shifted(image, window))]
    found = functools.reduce(jnp.add, parts)
    return found.reshape(*found.shape[:-2], -1)


def spread(given: jax.Array, kernel: jax.Array, window: Window, shape: Sizes) -> jax.Array:
    """The transpose of a convolution, as a function of its image: each number is spread over the places it came from.

    Args:
        given: as the convolution answers it.
        kernel: of the convolution.
        window: likewise.
        shape: of the image.
    """
    weights = kernel.reshape(-1, kernel.shape[-1]).T

    def whole(given: jax.Array) -> jax.Array:
        image = jax.ShapeDtypeStruct((given.shape[0], *shape[1:]), given.dtype)
        # The transpose of cutting out is adding up.
        cut = lambda image: jnp.concatenate(_shifted(image, window), -1)  # noqa: E731
        return jax.linear_transpose(cut, image)(_rows(given, weights))[0]

    batch = given.shape[0]
    num_bytes = math.prod(given.shape[1:-1]) * weights.shape[1] * given.dtype.itemsize
    if batch * num_bytes <= _MAX_BYTES:
        return whole(given)
    # Nothing of it is kept for the gradient, so to be split costs it no second computation.
    size = max(
        size for size in range(1, batch + 1) if batch % size == 0 and (size * num_bytes <= _MAX_BYTES or size == 1)
    )
    parts = jax.lax.map(whole, given.reshape(-1, size, *given.shape[1:]))
    return parts.reshape(batch, *parts.shape[2:])


def _rows(image: jax.Array, matrix: jax.Array) -> jax.Array:
    """Pixels times a matrix. As rows of two axes: with four, XLA's layouts make the gradient twice as slow."""
    return (image.reshape(-1, image.shape[-1]) @ matrix).reshape(*image.shape[:-1], -1)


def _padded(image: jax.Array, window: Window) -> jax.Array:
    """The image with zeros around it; what no place of the kernel reaches is cut off."""
    places = window.places(image.shape[1:-1])
    sizes = zip(image.shape[1:-1], window.pads, window.reach, window.strides, places, strict=True)
    around = [(pads[0], (place - 1) * stride + reach - size - pads[0], 0) for size, pads, reach, stride, place in sizes]
    return jax.lax.pad(image, np.zeros((), image.dtype), [(0, 0, 0), *around, (0, 0, 0)])


def _shifted(image: jax.Array, window: Window) -> list[jax.Array]:
    """For each weight of a kernel the pixels that it meets, at all places."""
    padded, places = _padded(image, window), window.places(image.shape[1:-1])
    found = []
    for weight in itertools.product(*map(range, window.kernel)):
        first = [at * step for at, step in zip(weight, window.dilation, strict=True)]
        last = [at + (place - 1) * by + 1 for at, place, by in zip(first, places, window.strides, strict=True)]
        ends = (padded.shape[0], *last, padded.shape[-1])
        found.append(jax.lax.slice(padded, (0, *first, 0), ends, (1, *window.strides, 1)))
    return found


def _patches(image: jax.Array, window: Window) -> jax.Array:
    """What lies under a kernel at each place, as channels."""
    found, places = _padded(image, window), window.places(image.shape[1:-1])
    # One axis after the other: fewer instructions than a cut for each weight. The last first, so that the order is that
    # of the kernel's axes.
    for axis in reversed(range(len(places))):
        length = (places[axis] - 1) * window.strides[axis] + 1
        starts = [weight * window.dilation[axis] for weight in range(window.kernel[axis])]
        cuts = [jax.lax.slice_in_dim(found, at, at + length, window.strides[axis], axis + 1) for at in starts]
        found = jnp.concatenate(cuts, -1) if len(cuts) > 1 else cuts[0]
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The largest of a window


def largest_of_windows(image: jax.Array, sizes: Sizes, pads: Pads) -> jax.Array:
    """The largest number of each window; windows lie side by side.

    Args:
        image: any axes.
        sizes: of a window, 1 along axes without.
        pads: for each axis what is put around.
    """
    places = [(size + sum(pad)) // width for size, width, pad in zip(image.shape, sizes, pads, strict=True)]
    sides = zip(image.shape, sizes, pads, places, strict=True)
    around = [(pad[0], place * width - size - pad[0], 0) for size, width, pad, place in sides]
    padded = jax.lax.pad(image, np.asarray(-np.inf, image.dtype), around)
    split = [part for place, width in zip(places, sizes, strict=True) for part in (place, width)]
    return _largest(padded.reshape(split))[0]


@jax.custom_jvp
def _largest(windows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest number along every second axis, and its place in the window: the first of those that are equal."""
    places = list(itertools.product(*map(range, windows.shape[1::2])))
    inside = [windows[tuple(part for index in at for part in (slice(None), index))] for at in places]
    largest, place = inside[0], jnp.zeros(inside[0].shape, np.int32)
    for number, here in enumerate(inside[1:], 1):
        # As in XLA, what is not a number is the largest.
        larger = (here > largest) | (here != here)
        largest, place = jnp.where(larger, here, largest), jnp.where(larger, np.int32(number), place)
    return largest, place


@_largest.defjvp
def _largest_forward(windows: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
    largest, place = _largest(*windows)
    inside = tuple(range(1, 2 * largest.ndim, 2))
    sizes = [size if axis % 2 else 1 for axis, size in enumerate(windows[0].shape)]
    numbers = np.arange(math.prod(sizes), dtype=np.int32).reshape(sizes)
    # Its transpose is a choice between the gradient and zero, number by number.
    chosen = jnp.where(jnp.expand_dims(place, inside) == numbers, tangents[0], 0)
    return (largest, place), (jnp.sum(chosen, inside), np.zeros(place.shape, jax.dtypes.float0))
