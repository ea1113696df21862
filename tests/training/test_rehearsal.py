"""Code of the user's is one call of `fit`, or it is not: each way of doing more is found, and leaves no trace."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import contextlib

import keras
import numpy as np
import pytest

from manyfit.data.call import Call
from manyfit.training.rehearsal import Awaited, Marker, NotOneCall, Rehearsal, call_of_fit

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
KEPT: list[object] = []
MADE_BEFORE = keras.callbacks.EarlyStopping()


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="out")])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def rehearsed(fit, model, *callbacks, **kwargs):
    return call_of_fit(fit, kt.HyperParameters(), model, Call((X, Y), {"callbacks": [*callbacks, Marker()], **kwargs}))


# The usual forms -----------------------------------------------------------------------------------------------------


def plain(hp, model, *args, **kwargs):
    return model.fit(*args, batch_size=hp.Choice("batch_size", [4, 8]), epochs=3, **kwargs)


def by_names(hp, model, x, y, callbacks, **kwargs):
    history = model.fit(x, y, callbacks=[*callbacks, keras.callbacks.EarlyStopping()], **kwargs)
    return history


def by_the_default(hp, model, *args, **kwargs):
    kwargs["class_weight"] = {0: 1.0, 1: hp.Float("weight", 1.0, 3.0)}
    return kt.HyperModel.fit(None, hp, model, *args, **kwargs)


def appended(hp, model, *args, **kwargs):
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: hp.get("patience"))
    kwargs["callbacks"].append(stop)
    return model.fit(*args, **kwargs)


def prepared(hp, model, *args, **kwargs):
    model.summary(print_fn=lambda line: None)
    model.layers[0].set_weights([np.full((3, 1), 2.0), np.zeros(1)])
    model.compile(keras.optimizers.SGD(0.5), "mae")
    model.optimizer.learning_rate = 0.25
    with_seeds = model.fit
    return with_seeds(*args, **kwargs)


@pytest.mark.parametrize("fit", [plain, by_names, by_the_default, appended, prepared], ids=lambda one: one.__name__)
def test_a_usual_form_is_the_call(fit, model):
    stop = keras.callbacks.EarlyStopping(patience=7)
    call = rehearsed(fit, model, stop, verbose=0)
    assert call.x is X and call.y is Y and call.get("verbose") == 0
    assert call.callbacks[0] is stop and not any(isinstance(one, Marker) for one in call.callbacks)
    assert type(model) is keras.Sequential and type(stop) is keras.callbacks.EarlyStopping
    # Nothing was trained, and nothing of Keras's stays changed.
    assert "fit" not in vars(keras.Model) and "apply" not in vars(keras.optimizers.Optimizer)
    assert int(model.optimizer.iterations) == 0


def test_what_it_was_called_with_and_what_it_did_before(model):
    assert {name: rehearsed(plain, model).get(name) for name in ("batch_size", "epochs")} == {
        "batch_size": 4,
        "epochs": 3,
    }
    assert len(rehearsed(by_names, model).callbacks) == 1
    rehearsed(prepared, model)
    assert model.loss == "mae" and float(model.optimizer.learning_rate) == 0.25
    np.testing.assert_array_equal(model.layers[0].get_weights()[0], np.full((3, 1), 2.0))


def test_a_change_is_made_of_the_call(model):
    given = Call((X, Y), {"callbacks": [Marker()]})
    call = call_of_fit(plain, kt.HyperParameters(), model, given, lambda call: call.with_(epochs=9))
    assert call.get("epochs") == 9


# Others --------------------------------------------------------------------------------------------------------------


def twice(hp, model, *args, **kwargs):
    model.fit(*args, **kwargs)
    return model.fit(*args, **kwargs)


def twice_by_a_bound_method(hp, model, *args, **kwargs):
    fit = model.fit
    fit(*args, **kwargs)
    return fit(*args, **kwargs)


def looks(hp, model, *args, **kwargs):
    history = model.fit(*args, **kwargs)
    print(history.history["loss"])
    return history


def measures(hp, model, *args, **kwargs):
    return min(model.fit(*args, **kwargs).history["loss"])


def swallows(hp, model, *args, **kwargs):
    history = model.fit(*args, **kwargs)
    with contextlib.suppress(BaseException):
        print(history.epoch)
    return history


def compares(hp, model, *args, **kwargs):
    history = model.fit(*args, **kwargs)
    return history or None


def answers_a_number(hp, model, *args, **kwargs):
    model.fit(*args, **kwargs)
    return 1.0


def answers_a_dict(hp, model, *args, **kwargs):
    return {"loss": 1.0, "fitted": model.fit(*args, **kwargs)}


def keeps(hp, model, *args, **kwargs):
    KEPT.append(model.fit(*args, **kwargs))
    return KEPT[-1]


def saves(hp, model, *args, **kwargs):
    history = model.fit(*args, **kwargs)
    model.save_weights("never.weights.h5")
    return history


def changes_weights(hp, model, *args, **kwargs):
    layer = model.layers[0]
    history = model.fit(*args, **kwargs)
    layer.kernel.assign(np.zeros((3, 1)))
    return history


def reads_a_callback(hp, model, *args, callbacks=(), **kwargs):
    stop = keras.callbacks.EarlyStopping()
    history = model.fit(*args, callbacks=[*callbacks, stop], **kwargs)
    print(stop.stopped_epoch)
    return history


def shares_a_callback(hp, model, *args, callbacks=(), **kwargs):
    return model.fit(*args, callbacks=[*callbacks, MADE_BEFORE], **kwargs)


def drops_callbacks(hp, model, x, y, **kwargs):
    return model.fit(x, y)


def another_model(hp, model, *args, **kwargs):
    other = keras.Sequential([model])
    other.compile("sgd", "mse")
    return other.fit(*args, **kwargs)


def own_loop(hp, model, x, y, callbacks, **kwargs):
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.apply([keras.ops.zeros((3, 1)), keras.ops.zeros((1,))], model.trainable_variables)
    return {"loss": 1.0}


def batch_by_batch(hp, model, x, y, callbacks, **kwargs):
    return {"loss": float(model.train_on_batch(x, y))}


def no_training(hp, model, *args, **kwargs):
    return {"loss": 1.0}


def raises(hp, model, *args, **kwargs):
    raise KeyError("mine")


OTHERS = {
    twice: "uses the model after fit",
    twice_by_a_bound_method: "uses the model after fit",
    looks: "looks at what model.fit returns",
    measures: "looks at what model.fit returns",
    swallows: "looks at what model.fit returns",
    compares: "looks at what model.fit returns",
    answers_a_number: "returns something else than model.fit does",
    answers_a_dict: "returns something else than model.fit does",
    keeps: "keeps what model.fit returns",
    saves: "uses the model after fit",
    changes_weights: "changes weights after fit",
    reads_a_callback: "uses the callbacks after fit",
    shares_a_callback: "trains with a EarlyStopping that was made outside of it",
    drops_callbacks: "does not pass on the callbacks that it is given",
    another_model: "trains another model than the one that was built",
    own_loop: "trains in a loop of its own",
    batch_by_batch: "trains in a loop of its own",
    no_training: "does not call model.fit",
    raises: "raised KeyError",
}


@pytest.mark.parametrize(("fit", "reason"), OTHERS.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_what_does_more_is_found_and_leaves_no_trace(fit, reason, model):
    with pytest.raises(NotOneCall, match=reason):
        rehearsed(fit, model)
    assert type(model) is keras.Sequential and type(MADE_BEFORE) is keras.callbacks.EarlyStopping
    assert "fit" not in vars(keras.Model) and "apply" not in vars(keras.optimizers.Optimizer)
    model.fit(X, Y, verbose=0)


def test_what_is_kept_of_a_rehearsal_says_what_it_is(model):
    KEPT.clear()
    with pytest.raises(NotOneCall):
        rehearsed(keeps, model)
    with pytest.raises(AttributeError, match="tried only"):
        KEPT[0].history


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_who_ends_the_program_ends_it(end, model):
    def fit(hp, model, *args, **kwargs):
        raise end

    with pytest.raises(end):
        rehearsed(fit, model)


@pytest.mark.parametrize("ask", [bool, len, str, repr, hash, iter, float, lambda one: one == 1, lambda one: one[0]])
def test_nothing_is_told_before_it_is_known(ask):
    rehearsal = Rehearsal()

    def code():
        answer = rehearsal.take(Call())
        assert type(answer) is Awaited
        ask(answer)
        return answer

    with pytest.raises(NotOneCall, match="looks at what"):
        rehearsal.of(code)
