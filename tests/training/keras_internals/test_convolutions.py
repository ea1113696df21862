"""Convolutions and pooling in quick forms are Keras's own, forward and backward, in every way that it has of them."""

import functools
import threading

import keras
import numpy as np
import pytest
from marks import needs_a_cpu, needs_jax

pytestmark = [needs_jax, needs_a_cpu]
if keras.backend.backend() == "jax":
    import jax
    from keras.src.backend.jax import nn as keras_nn

    from manyfit.training.keras_internals import convolution_forms, convolutions
    from manyfit.training.keras_internals.convolutions import quick_convolutions
    from manyfit.training.keras_internals.programs import quick_options

NAMES = ("conv", "depthwise_conv", "separable_conv", "conv_transpose", "max_pool", "average_pool")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setenv("MANYFIT_CACHE_DIR", "off")
    monkeypatch.setattr(convolutions, "_verdicts", {})


def forward_and_backward(function, arrays):
    """What a function answers, and its gradients for all arrays, as a program."""

    def both(*arrays):
        answer, back = jax.vjp(function, *arrays)
        return answer, *back(np.random.default_rng(1).normal(size=answer.shape).astype(answer.dtype))

    return jax.jit(both).lower(*arrays).compile(quick_options())(*arrays)


def same(function, *shapes, dtype="float32", tolerance=2e-6, taken=True):
    """Whether a function of Keras's computes the same inside as outside; and whether a form of ours has done it."""
    draws = np.random.default_rng(0)
    arrays = [draws.normal(size=shape).astype(dtype) for shape in shapes]
    plain = forward_and_backward(function, arrays)
    with quick_convolutions():
        quick = forward_and_backward(function, arrays)
    for one, other in zip(plain, quick, strict=True):
        assert one.dtype == other.dtype
        one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance * max(1, np.abs(one).max()))
    assert any(convolutions._verdicts.values()) == taken


CONVOLUTIONS = {
    "few channels": ((2, 8, 9, 1), (3, 3, 1, 4), {}),
    "few channels, strides": ((2, 8, 9, 3), (3, 3, 3, 4), {"strides": 2, "padding": "same"}),
    "few channels, dilation": ((2, 9, 9, 2), (3, 2, 2, 4), {"dilation_rate": (2, 1), "padding": "same"}),
    "one channel, many filters": ((2, 6, 6, 1), (3, 3, 1, 24), {"padding": "same"}),
    "channels": ((2, 7, 6, 4), (3, 3, 4, 5), {"padding": "same"}),
    "valid": ((3, 7, 8, 5), (3, 2, 5, 2), {}),
    "even kernel": ((2, 7, 8, 4), (4, 2, 4, 3), {"padding": "same"}),
    "strides": ((2, 9, 8, 4), (3, 3, 4, 6), {"strides": (2, 3), "padding": "same"}),
    "strides, valid": ((2, 10, 8, 4), (3, 3, 4, 6), {"strides": 2}),
    "strides longer than the kernel": ((2, 11, 10, 4), (2, 2, 4, 3), {"strides": 3}),
    "dilation": ((2, 9, 9, 4), (3, 3, 4, 2), {"dilation_rate": 2}),
    "dilation, same": ((2, 9, 8, 4), (3, 3, 4, 2), {"dilation_rate": (2, 3), "padding": "same"}),
    "groups": ((2, 6, 6, 8), (3, 3, 4, 6), {"padding": "same"}),
    "groups, strides": ((2, 7, 6, 8), (3, 3, 2, 8), {"padding": "same", "strides": 2}),
    "groups of one": ((2, 6, 6, 4), (3, 3, 1, 8), {"padding": "same"}),
    "one pixel": ((2, 5, 5, 6), (1, 1, 6, 3), {}),
    "one pixel, strides": ((2, 5, 6, 6), (1, 1, 6, 3), {"strides": 2, "padding": "same"}),
    "one pixel, groups": ((2, 5, 5, 6), (1, 1, 3, 4), {}),
    "kernel as large as the image": ((2, 5, 5, 4), (5, 5, 4, 3), {}),
    "kernel larger than the image": ((2, 3, 3, 4), (5, 5, 4, 3), {"padding": "same"}),
    "channels first": ((2, 4, 7, 6), (3, 3, 4, 5), {"padding": "same", "data_format": "channels_first"}),
    "channels first, few": ((2, 3, 7, 6), (3, 3, 3, 5), {"strides": 2, "data_format": "channels_first"}),
    "1D": ((3, 11, 4), (3, 4, 5), {"padding": "same"}),
    "1D, few channels, strides": ((3, 11, 1), (5, 1, 6), {"strides": 2}),
    "1D, dilation": ((3, 12, 6), (3, 6, 4), {"dilation_rate": 3, "padding": "same"}),
    "1D, channels first": ((3, 4, 11), (3, 2, 6), {"data_format": "channels_first"}),
    "3D": ((2, 5, 6, 4, 2), (3, 2, 3, 2, 4), {"padding": "same"}),
    "3D, strides": ((2, 5, 6, 5, 4), (3, 3, 2, 4, 3), {"strides": (2, 1, 2), "padding": "same"}),
    "3D, groups": ((2, 4, 5, 4, 4), (2, 2, 2, 2, 4), {}),
    "3D, channels first": ((2, 3, 4, 5, 4), (2, 3, 2, 3, 4), {"dilation_rate": 1, "data_format": "channels_first"}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    image, kernel, settings = CONVOLUTIONS[name]
    same(lambda image, kernel: keras.ops.conv(image, kernel, **settings), image, kernel)


TRANSPOSED = {
    "plain": ((2, 4, 5, 3), (3, 3, 4, 3), {}),
    "strides": ((2, 4, 5, 3), (3, 4, 4, 3), {"strides": (2, 3), "padding": "same"}),
    "strides, valid": ((2, 4, 5, 3), (2, 2, 4, 3), {"strides": 2}),
    "small kernel": ((2, 4, 5, 3), (2, 1, 4, 3), {"strides": 3, "padding": "same"}),
    "output padding": ((2, 4, 5, 3), (3, 3, 4, 3), {"strides": 2, "padding": "same", "output_padding": 1}),
    "dilation": ((2, 4, 5, 3), (3, 3, 4, 3), {"dilation_rate": 2}),
    "channels first": ((2, 3, 4, 5), (3, 3, 4, 3), {"strides": 2, "data_format": "channels_first"}),
    "1D": ((2, 6, 3), (4, 2, 3), {"strides": 2, "padding": "same"}),
    "3D": ((2, 3, 2, 3, 2), (3, 2, 2, 2, 2), {"strides": 2, "padding": "same"}),
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolutions(name):
    image, kernel, settings = TRANSPOSED[name]
    same(lambda image, kernel: keras.ops.conv_transpose(image, kernel, **settings), image, kernel)


def test_a_large_transposed_convolution_is_split_over_the_batch(monkeypatch):
    monkeypatch.setattr(convolution_forms, "_MAX_BYTES", 4 * 4 * 5 * 9 * 4 * 2)  # two of six images
    call = lambda image, kernel: keras.ops.conv_transpose(image, kernel, 2, "same")  # noqa: E731
    same(call, (6, 4, 5, 3), (3, 3, 4, 3))
    with quick_convolutions():
        text = jax.jit(call).lower(np.ones((6, 4, 5, 3), "float32"), np.ones((3, 3, 4, 3), "float32")).as_text()
    assert "while" in text


@pytest.mark.parametrize(
    ("image", "kernel", "settings"),
    [
        ((2, 7, 6, 4), (3, 3, 4, 1), {"padding": "same"}),
        ((2, 7, 6, 4), (3, 3, 4, 3), {"strides": 2}),
        ((2, 4, 7, 6), (3, 2, 4, 2), {"padding": "same", "dilation_rate": 2, "data_format": "channels_first"}),
        ((2, 9, 4), (3, 4, 2), {"padding": "same"}),
    ],
)
def test_depthwise_and_separable_convolutions(image, kernel, settings):
    same(lambda image, kernel: keras.ops.depthwise_conv(image, kernel, **settings), image, kernel)
    channels = kernel[-2] * kernel[-1]
    points = (*(1 for _ in kernel[:-2]), channels, 5)
    call = lambda image, kernel, points: keras.ops.separable_conv(image, kernel, points, **settings)  # noqa: E731
    same(call, image, kernel, points)


POOLS = {
    "2": ((2, 6, 8, 3), 2, {}),
    "2, odd": ((2, 7, 9, 3), 2, {}),
    "2, odd, same": ((2, 7, 9, 3), 2, {"padding": "same"}),
    "3 and 2": ((2, 7, 9, 3), (3, 2), {"padding": "same"}),
    "channels first": ((2, 3, 7, 9), 2, {"data_format": "channels_first"}),
    "1D": ((2, 7, 3), 3, {}),
    "3D": ((2, 4, 5, 4, 3), 2, {"padding": "same"}),
}


@pytest.mark.parametrize("name", POOLS)
def test_the_largest_of_windows(name):
    image, size, settings = POOLS[name]
    # Keras 3.15 takes no default here: it would make the sizes of the window ones for all axes twice.
    same(lambda image: keras.ops.max_pool(image, size, strides=size, **settings), image, tolerance=0)


def test_the_first_of_equal_numbers_takes_the_gradient_and_what_is_no_number_is_the_largest():
    image = np.random.default_rng(0).integers(0, 3, (4, 8, 8, 2)).astype("float32")
    image[0, 3, 3, 0], image[1, 2, 2, 1] = np.nan, np.nan
    call = lambda image: keras.ops.max_pool(image, 2, 2)  # noqa: E731
    plain = forward_and_backward(call, [image])
    with quick_convolutions():
        quick = forward_and_backward(call, [image])
    np.testing.assert_array_equal(quick[0], plain[0])
    known = np.isfinite(np.asarray(plain[0])).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(np.asarray(quick[1])[known], np.asarray(plain[1])[known])


@pytest.mark.parametrize(
    "call",
    [
        lambda image: keras.ops.max_pool(image, 3, 2),
        lambda image: keras.ops.max_pool(image, 2, 1, "same"),
        lambda image: keras.ops.average_pool(image, 2, 2),
    ],
)
def test_other_pools_are_keras_s_own(call):
    same(call, (2, 7, 7, 3), tolerance=0, taken=False)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 6e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("name", ["few channels", "channels", "one pixel", "groups of one", "strides"])
def test_half_precision_stays_what_it_is(name, dtype, tolerance):
    image, kernel, settings = CONVOLUTIONS[name]
    call = lambda image, kernel: keras.ops.conv(image, kernel, **settings)  # noqa: E731
    same(call, image, kernel, dtype=jax.numpy.dtype(dtype), tolerance=tolerance)


def test_gradients_of_gradients():
    image, kernel, settings = CONVOLUTIONS["strides"]

    def penalty(image, kernel):
        slope = jax.grad(lambda image: (keras.ops.conv(image, kernel, **settings) ** 2).sum())(image)
        return (slope**2).sum()

    same(jax.grad(penalty, argnums=1), image, kernel, tolerance=1e-5)


def test_members_side_by_side():
    image, kernel, settings = CONVOLUTIONS["channels"]
    call = jax.vmap(lambda image, kernel: keras.ops.max_pool(keras.ops.conv(image, kernel, **settings), 2, 2))
    same(call, (3, *image), (3, *kernel))


def test_what_is_wrong_is_said_by_keras():
    calls = [
        lambda: keras.ops.conv(np.ones((2, 5, 5, 3)), np.ones((3, 3, 2, 4))),
        lambda: keras.ops.conv(np.ones((2, 2, 2, 3)), np.ones((3, 3, 3, 4))),
        lambda: keras.ops.max_pool(np.ones((2, 5, 5, 3)), 2, 2, padding="causal"),
    ]

    def said(call):
        try:
            call()
        except ValueError as error:
            return str(error)
        return "nothing"  # by an older Keras, of some

    found = [said(call) for call in calls]
    assert found != ["nothing"] * len(calls)
    with quick_convolutions():
        assert [said(call) for call in calls] == found


# -- where it holds ---------------------------------------------------------------------------------------------------


def convolved_in_windows():
    """Whether a gradient is taken as XLA takes it: by a convolution over axes in an unusual order."""
    ones = np.ones((2, 6, 6, 4), "float32"), np.ones((3, 3, 4, 4), "float32")
    text = jax.jit(jax.grad(lambda image, kernel: keras.ops.conv(image, kernel).sum(), 1)).lower(*ones).as_text()
    return "[f, 0, 1, b]" in text


def test_only_this_thread_and_only_inside():
    seen = {}
    with pytest.raises(ValueError, match="inside"), quick_convolutions():
        seen["inside"] = convolved_in_windows()
        other = threading.Thread(target=lambda: seen.update(other=convolved_in_windows()))
        other.start()
        other.join()
        raise ValueError("inside")
    seen["after"] = convolved_in_windows()
    assert seen == {"inside": False, "other": True, "after": True}


def test_keras_has_its_own_functions_back_afterwards():
    own = {name: getattr(keras_nn, name) for name in NAMES}
    with quick_convolutions(), quick_convolutions():
        assert keras_nn.conv is not own["conv"]
    assert {name: getattr(keras_nn, name) for name in NAMES} == own


def test_layers_call_the_functions_that_are_replaced():
    """Without it, they would be as slow as ever, and nobody would notice."""
    layers = keras.layers
    kinds = [
        (layers.Conv1D(3, 3, padding="causal"), (9, 2)),
        (layers.Conv2D(3, 3), (6, 6, 2)),
        (layers.Conv3D(3, 2), (4, 4, 4, 2)),
        (layers.DepthwiseConv1D(3), (9, 2)),
        (layers.DepthwiseConv2D(3), (6, 6, 2)),
        (layers.SeparableConv1D(3, 3), (9, 2)),
        (layers.SeparableConv2D(3, 3), (6, 6, 2)),
        (layers.Conv1DTranspose(3, 3), (9, 2)),
        (layers.Conv2DTranspose(3, 3), (6, 6, 2)),
        (layers.MaxPooling1D(2), (9, 2)),
        (layers.MaxPooling2D(2), (6, 6, 2)),
        (layers.ConvLSTM2D(2, 3), (2, 6, 6, 2)),
    ]
    for layer, shape in kinds:
        x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
        plain = layer(x)
        convolutions._verdicts.clear()
        with quick_convolutions():
            quick = layer(x)
        assert convolutions._verdicts, layer.name
        assert all(convolutions._verdicts.values()), layer.name
        np.testing.assert_allclose(quick, plain, atol=1e-5)


def test_a_kind_that_is_not_equal_stays_keras_s_own(monkeypatch):
    ours = convolutions._OURS["conv"]
    wrong = functools.wraps(ours)(lambda *args, **kwargs: 1.001 * ours(*args, **kwargs))
    monkeypatch.setitem(convolutions._OURS, "conv", wrong)
    image, kernel = np.ones((2, 5, 5, 4), "float32"), np.ones((3, 3, 4, 4), "float32")
    with quick_convolutions():
        found = keras.ops.conv(image, kernel)
    np.testing.assert_array_equal(found, keras.ops.conv(image, kernel))
    assert set(convolutions._verdicts.values()) == {False}


def test_what_was_found_is_remembered_on_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYFIT_CACHE_DIR", str(tmp_path))
    image, kernel = np.ones((2, 5, 5, 4), "float32"), np.ones((3, 3, 4, 4), "float32")
    with quick_convolutions():
        keras.ops.conv(image, kernel)
        convolutions._verdicts.clear()
        monkeypatch.setattr(convolutions._Call, "_agrees", None)  # asked for again, it would raise
        keras.ops.conv(np.ones((9, 5, 5, 4), "float32"), kernel)  # of the same kind: batches do not matter
    assert list(convolutions._verdicts.values()) == [True]
