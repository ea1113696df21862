"""Random search spaces for property tests."""

from hypothesis import strategies as st

from manyfit.space import HyperParameters

NAMES = ("a", "b", "c", "d", "e", "f")


def _numbers(draw, *, whole):
    """Arguments of `Int` or `Float`: bounds, perhaps a step, and a scale that goes with them."""
    sampling = draw(st.sampled_from(["linear", "log", "reverse_log"]))
    if whole:
        low = draw(st.integers(1 if sampling != "linear" else -50, 50))
        high = low + draw(st.integers(0, 60))
        step = draw(st.one_of(st.none(), st.integers(2, 7)))
    else:
        low = draw(st.integers(1 if sampling != "linear" else -500, 500)) / 100
        high = low + draw(st.integers(0, 600)) / 100
        step = draw(st.one_of(st.none(), st.sampled_from([1.5, 2.0, 10.0]) if sampling != "linear" else _STEPS))
    return {"min_value": low, "max_value": high, "step": step, "sampling": sampling}


_STEPS = st.sampled_from([0.1, 0.25, 0.05, 0.3, 1.0])


def _add(draw, hp, name, kind):
    if kind in ("Int", "Float"):
        getattr(hp, kind)(name, **_numbers(draw, whole=kind == "Int"))
    elif kind == "Choice":
        values = draw(
            st.sampled_from([["x"], ["x", "y"], ["x", "y", "z"], [4, 1, 2], [0.5, 0.1], [True, False], [7, 9, 8, 6]])
        )
        hp.Choice(name, values, default=draw(st.sampled_from([None, *values])))
    elif kind == "Boolean":
        hp.Boolean(name, default=draw(st.booleans()))
    else:
        hp.Fixed(name, draw(st.sampled_from([3, "fixed", 0.5, True])))


@st.composite
def spaces(draw, *, finite=False, max_size=6):
    """Spaces of up to `max_size` hyperparameters, many of them under conditions on earlier ones."""
    hp = HyperParameters()
    kinds = ["Int", "Choice", "Boolean", "Fixed"] + ([] if finite else ["Float"])
    for name in NAMES[: draw(st.integers(1, max_size))]:
        kind = draw(st.sampled_from(kinds))
        parents = [each for each in hp.space if each.num_values is not None]
        if not parents or draw(st.booleans()):
            _add(draw, hp, name, kind)
            continue
        parent = draw(st.sampled_from(parents))
        indices = st.integers(0, parent.num_values - 1)
        chosen = draw(st.lists(indices, min_size=1, max_size=3, unique=True))
        with hp.conditional_scope(parent.name, [parent.value_at(index) for index in chosen]):
            _add(draw, hp, name, kind)
    return hp
