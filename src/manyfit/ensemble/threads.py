"""One BLAS thread for many small solves.

L-BFGS factorises matrices of twenty rows; OpenBLAS starts all its threads for each of them, and on a busy machine most
of the time goes into waiting for them: a fit that takes 1.2 s of processor time with one thread took 8 s with two.
`threadpoolctl`, which comes with scikit-learn, can limit them; without it nothing changes.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any


@functools.cache
def _controller() -> Any:
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


def one_thread() -> contextlib.AbstractContextManager[Any]:
    """A context in which BLAS uses one thread, where that can be told to it."""
    controller = _controller()
    return contextlib.nullcontext() if controller is None else controller.limit(limits=1, user_api="blas")
