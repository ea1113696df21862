"""Canonical forms: what is one program, what differs in numbers only, and whether lifting keeps the results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manyfit.training.population.canonical_jaxpr import canonical_form, differing_holes, evaluate, first_difference

X = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)


def with_scan(rate):
    return lambda x: jax.lax.scan(lambda c, row: (c * rate + row, c.sum() * rate), jnp.zeros(4), x)


def with_while(rate):
    return lambda x: jax.lax.while_loop(lambda c: c.sum() < 50 * rate, lambda c: c + rate, jnp.abs(x))


def with_cond(rate):
    return lambda x: jax.lax.cond(x.sum() > 0.5, lambda y: y * rate, lambda y: y - rate, x)


def with_remat(rate):
    return lambda x: jax.grad(jax.checkpoint(lambda z: jnp.sin(z * rate).sum()))(x)  # noqa: PLW0108  a scope for `rate`


def with_custom_derivative(rate):
    return lambda x: jax.nn.relu(x - rate) + jax.nn.silu(x * rate)


def with_jit_and_array(rate):
    weights = np.full(4, rate, "float32")
    return lambda x: jax.jit(lambda y: y @ weights)(x) * rate


@pytest.mark.parametrize(
    "make", [with_scan, with_while, with_cond, with_remat, with_custom_derivative, with_jit_and_array]
)
def test_lifting_into_nested_programs(make):
    one, other = (canonical_form(jax.make_jaxpr(make(rate))(X)) for rate in (0.5, 0.7))
    assert first_difference(one, other) is None
    holes = differing_holes([one, other])
    assert holes
    lifted = {hole: jnp.asarray(other.values[hole], other.dtypes[hole]) for hole in holes}
    expected = jax.tree.leaves(make(0.7)(X))
    for want, got in zip(expected, jax.jit(lambda x, numbers: evaluate(one, [x], numbers))(X, lifted), strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-6)
    # Members side by side: one axis of numbers gives both results at once.
    both = {hole: jnp.stack([jnp.asarray(f.values[hole], f.dtypes[hole]) for f in (one, other)]) for hole in holes}
    fused = jax.vmap(lambda numbers: evaluate(one, [X], numbers))(both)
    for want, got in zip(jax.tree.leaves(make(0.5)(X)), fused, strict=True):
        np.testing.assert_allclose(np.asarray(got)[0], np.asarray(want), rtol=1e-6)


def test_mismatch_says_what_differs():
    wide, narrow = (canonical_form(jax.make_jaxpr(lambda x, w=w: x @ jnp.ones((4, w)))(X)) for w in (2, 3))
    assert "float32[4,2]" in first_difference(wide, narrow).reason or "(4, 2)" in first_difference(wide, narrow).reason


def test_nan_equals_itself_and_zero_has_a_sign():
    forms = [canonical_form(jax.make_jaxpr(lambda x, v=v: x * v)(1.0)) for v in (np.nan, np.nan, 0.0, -0.0)]
    assert differing_holes(forms[:2]) == ()
    assert differing_holes(forms[2:]) == (0,)
