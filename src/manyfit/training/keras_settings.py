"""Keras's settings that belong to the user, kept over what Manyfit does between models.

Keras holds them per thread, and `clear_session` drops them: a dtype policy or a distribution that was set before a
search would be gone after its first trial, and was never there in a thread that trains a pausable execution.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class KerasSettings:
    """The dtype policy and the distribution of a thread."""

    policy: Any
    distribution: Any

    @classmethod
    def current(cls) -> KerasSettings:
        """Those of the calling thread."""
        return cls(keras.config.dtype_policy(), keras.distribution.distribution())

    def restore(self) -> None:
        """Makes them those of the calling thread."""
        keras.config.set_dtype_policy(self.policy)
        if self.distribution is not keras.distribution.distribution():
            keras.distribution.set_distribution(self.distribution)


def clear_session() -> None:
    """Frees what Keras remembers of models, and keeps the user's settings."""
    settings = KerasSettings.current()
    keras.backend.clear_session(free_memory=False)
    settings.restore()
