"""How long a training is where the caller of `fit` does not say, and what to say where no time is left for one."""

from __future__ import annotations

from collections.abc import Callable

import keras

from manyfit.core.errors import SearchError, explain
from manyfit.core.objective import MEASURES
from manyfit.data.call import Call
from manyfit.oracles import Oracle

#: Of one training, where nobody said how many: more than patience leaves of nearly all.
MOST_EPOCHS = 200
PATIENCE = 10


def with_length(call: Call, oracle: Oracle, say: Callable[[str], None]) -> Call:
    """The call with a number of epochs at most, and with patience, where the caller said nothing of either.

    Args:
        call: of `fit`.
        oracle: whose scheduler may say how long a training is, and whose objective tells what better is.
        say: takes one line of text for people.
    """
    if call.get("epochs") is not None:
        return call
    stops = [one for one in call.callbacks if isinstance(one, keras.callbacks.EarlyStopping)]
    if stops:
        return call.with_(epochs=MOST_EPOCHS)
    longest, scheduler = oracle.scheduler.max_epochs, type(oracle.scheduler).__name__
    if longest is not None and longest <= PATIENCE:  # nobody's patience ends before that
        say(f"fit: no epochs were given: a training ends as {scheduler} says.")
        return call.with_(epochs=MOST_EPOCHS)
    objective = oracle.objective.terms[0]
    name = objective.names[0] if len(objective.names) == 1 and objective.names[0] not in MEASURES else "val_loss"
    mode = getattr(objective, "direction", "min") if name in objective.names else "min"
    patience = keras.callbacks.EarlyStopping(name, patience=PATIENCE, mode=mode)
    said = f"a training ends {PATIENCE} epochs after its best {name}, or after {MOST_EPOCHS}"
    if longest is not None:
        said = f"a training ends {PATIENCE} epochs after its best {name}, or as {scheduler} says"
    say(f"fit: no epochs were given: {said}.")
    return call.with_(epochs=MOST_EPOCHS, callbacks=[*call.callbacks, patience])


def no_time_for_an_epoch(limit: float | None, predicted: float | None) -> SearchError:
    """What to tell who gave too little time.

    Args:
        limit: seconds that there were; None: no limit.
        predicted: seconds at least of the step that was not begun, or was left, since it did not fit; None: no such.
    """
    if limit is None:
        got, where = "no epoch", "fit()"
    else:
        got = f"{limit:g} s, which ended before the first epoch of a model was finished"
        where = f"fit(max_seconds={limit:g})"
    step = "" if predicted is None else f" (the step that did not fit takes {predicted:.2g} s or more)"
    allowed = f"time for one epoch at least, and for what is compiled before it{step}"
    enough = max(10 * (limit or 6), 10 * (predicted or 0))
    kept = " What was compiled by then need not be so again." if limit is not None else ""
    return SearchError(explain(where, got, allowed, f"Type max_seconds={enough:.3g}, say.{kept}"))
