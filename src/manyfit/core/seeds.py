"""One seed tree, addressed by names.

A stream is named by its path, not by the order in which streams are asked for, so adding a part to Manyfit does
not change the random numbers of the others, and a resumed search draws what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np

Name = str | int


def fresh_seed() -> int:
    """A seed from the operating system, for users who gave none; it is stored with the project."""
    return secrets.randbits(31)


def seed_of(study_seed: int, *path: Name) -> int:
    """The integer seed at a path of the tree, in ``[0, 2**31)``.

    Example:

    >>> seed_of(0, "execution", "0003", 1) == seed_of(0, "execution", "0003", 1)
    True
    >>> seed_of(0, "sampler", 1) == seed_of(1, "sampler", 0)
    False
    """
    # A hash of the whole path, and no spawning of generators one from another: nothing depends on the order in which
    # streams are asked for. The type stands in it, since trial "1" and execution 1 are two streams; the separator is a
    # character that no name has, so ("a", "bc") and ("ab", "c") are two as well.
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (int(study_seed), *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def generator(study_seed: int, *path: Name) -> np.random.Generator:
    """A NumPy generator at a path of the tree.

    Example:

    >>> bool(generator(0, "sampler", 7).random() == generator(0, "sampler", 7).random())
    True
    """
    return np.random.default_rng(seed_of(study_seed, *path))
