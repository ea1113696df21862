"""What a call of the sampler has chosen so far, and the rule that no configuration comes twice."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from manyfit.core.records import Observation, Value, Values
from manyfit.samplers.candidates import MAX_LISTED, draw_new, next_point, untried
from manyfit.samplers.gp.kernels import Array
from manyfit.samplers.gp.optimise import Score
from manyfit.samplers.gp.priors import Belief, LogBelief
from manyfit.samplers.outcomes import standings
from manyfit.space.encoding import Encoding

_NUM_ANYWHERE = 2_048  # candidates of the first points, of which beliefs choose
_NUM_BELIEVED = 64
_NUM_TRANSFERRED = 3  # winners of earlier searches that are tried first
_MAX_LISTED = 2_000  # finite spaces with at most so much left are scored in full instead of searched


class ProposalBatch:
    """Configurations that were tried, are pending or were just chosen; those just chosen are in `found`.

    Args:
        encoding: of the space.
        completed: the history; trials of earlier searches were not tried in this one.
        pending: values of trials without a result.
        beliefs: of the user, about where the first points should lie.
    """

    def __init__(
        self,
        encoding: Encoding,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        beliefs: Sequence[Belief] = (),
    ) -> None:
        self._encoding = encoding
        self._beliefs = beliefs
        ended = [encoding.adapt(each.values) for each in completed if not each.earlier]
        running = [encoding.adapt(values) for values in pending]
        self._keys: set[Hashable] = {encoding.key(values) for values in ended + running}
        self._num_ended = len(ended)
        self.points = encoding.encode_many(ended + running)
        self.found: list[dict[str, Value]] = []
        self._winners = _winners(encoding, [each for each in completed if each.earlier])
        self._left: list[dict[str, Value]] | None = None
        # Beyond this a list costs more than it finds; until then every configuration is scored.
        size = encoding.num_configurations(MAX_LISTED)
        if size is not None and size - len(self._keys) <= _MAX_LISTED:
            self._left = untried(encoding, self._keys)

    def waiting(self) -> Array:
        """(k, d) points without a result: pending ones, and those just chosen."""
        return self.points[self._num_ended :]

    def left(self) -> list[dict[str, Value]] | None:
        """All that was never tried, if that is a short list."""
        if self._left is not None:
            self._left = [values for values in self._left if self._encoding.key(values) not in self._keys]
        return self._left

    def add(self, values: dict[str, Value]) -> bool:
        """Takes a configuration unless it is known."""
        key = self._encoding.key(values)
        if key in self._keys:
            return False
        self._keys.add(key)
        self.found.append(values)
        self.points = np.concatenate([self.points, self._encoding.encode(values)[None, :]])
        return True

    def add_point(self, point: Array) -> bool:
        """Takes the configuration at a point unless it is known."""
        return self.add(self._encoding.decode(point))

    def add_initial(self, rng: np.random.Generator) -> bool:
        """Takes an earlier winner, else the defaults, else a point in the largest gap, else anything new."""
        if any(self.add(values) for values in [*self._winners, self._encoding.defaults()]):
            return True
        if len(self._encoding):
            candidates = None
            if self._beliefs:
                anywhere = self._encoding.snap(rng.random((_NUM_ANYWHERE, len(self._encoding))))
                candidates = LogBelief(self._encoding, self._beliefs, 1).draw(anywhere, _NUM_BELIEVED, rng)
            if self.add_point(next_point(self._encoding, self.points, rng, candidates)):
                return True
        return any(self.add(values) for values in draw_new(self._encoding, self._keys, 1, rng))

    def add_best_of(self, left: list[dict[str, Value]], score: Score) -> bool:
        """Takes the best of what is left of a finite space; False when nothing is."""
        if not left:
            return False
        values = score(self._encoding.encode_many(left))
        return self.add(left[int(np.argmax(values))])

    def fill(self, count: int, rng: np.random.Generator) -> list[dict[str, Value]]:
        """All that was found, filled up by initial points."""
        while len(self.found) < count and self.add_initial(rng):
            pass
        return self.found


def _winners(encoding: Encoding, earlier: Sequence[Observation]) -> list[dict[str, Value]]:
    """The best configurations of earlier searches, as this space has them."""
    order = np.argsort(standings(earlier), kind="stable")[:_NUM_TRANSFERRED]
    return [encoding.adapt(earlier[i].values) for i in order]
