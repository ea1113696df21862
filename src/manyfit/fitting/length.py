"""How long a training is, where the caller of `fit` says nothing of it."""

from __future__ import annotations

from collections.abc import Callable

import keras

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
    objective = oracle.objective.terms[0]
    name = objective.names[0] if len(objective.names) == 1 and objective.names[0] not in MEASURES else "val_loss"
    mode = getattr(objective, "direction", "min") if name in objective.names else "min"
    patience = keras.callbacks.EarlyStopping(name, patience=PATIENCE, mode=mode)
    said = f"a training ends {PATIENCE} epochs after its best {name}, or after {MOST_EPOCHS}"
    if oracle.scheduler.max_epochs is not None:
        said = f"a training ends {PATIENCE} epochs after its best {name}, or as {type(oracle.scheduler).__name__} says"
    say(f"fit: no epochs were given: {said}.")
    return call.with_(epochs=MOST_EPOCHS, callbacks=[*call.callbacks, patience])
