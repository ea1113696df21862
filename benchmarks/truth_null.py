"""Equal members: how often is a gain claimed where there is none?

Members are one model of three classes and a whiff of noise each, so that a mean of them is hardly better than one: by
less than the one percent of the loss that a proof has to exceed. The claim is `gain.proven`; the truth is 20,000 rows.
"""

from __future__ import annotations

import numpy as np
from scipy.special import softmax
from truth_draws import Draw, Ledger, share

from manyfit.ensemble import Ensemble, RowCuts

MEMBERS, WHIFF, UNSEEN = 8, 0.05, 20_000
CELLS = {f"{rows} rows, {kind}": (rows, kind) for rows in (100, 300, 1000) for kind in ("one holdout", "five folds")}


def draw(name: str, number: int) -> Draw:
    """One ensemble of equal members."""
    num_rows, kind = CELLS[name]
    rng = np.random.default_rng([number, num_rows, kind == "five folds"])
    z = 1.5 * rng.standard_normal((num_rows + UNSEEN, 3))
    y = (softmax(z, axis=1).cumsum(axis=1) < rng.random((len(z), 1))).sum(axis=1)
    base = z + 0.5 * rng.standard_normal(z.shape)
    p = np.stack([softmax(base + WHIFF * rng.standard_normal(z.shape), axis=1) for _ in range(MEMBERS)])
    folds = rng.permutation(num_rows) % 5
    cuts = RowCuts(folds=folds) if kind == "five folds" else None
    fitted = Ensemble.fit(list(p[:, :num_rows]), y[:num_rows], cuts=cuts, seed=number)
    rest = slice(num_rows, None)
    single = next(one.pool for one in fitted.choice.candidates if one.name == "single best")

    def loss(pool: object) -> float:
        told = pool(p[:, rest], fitted.problem.task)  # type: ignore[operator]
        return float(-np.log(told[np.arange(UNSEEN), y[rest]]).mean())

    gain = loss(single) - loss(fitted.choice.ensemble.pool)
    gained = gain > fitted.gain.least
    return {
        "claimed": fitted.gain.proven,
        "false": fitted.gain.proven and not gained,
        "refused": fitted.refused,
        "gain": gain,
        "cover": fitted.gain.low <= gain <= fitted.gain.high,
    }


def null(ledger: Ledger, count: int) -> None:
    """One row per kind of rows."""
    for _ in ledger.fill(list(CELLS), count, draw):
        pass
    print("| rows | draws | a gain is claimed | wrongly | refused | covers |\n| --- | --- | --- | --- | --- | --- |")
    for name in CELLS:
        draws = ledger.draws(name)
        cells = [share(draws, key) for key in ("claimed", "false", "refused", "cover")]
        print(f"| {name} | {len(draws)} | " + " | ".join(cells) + " |")
    print()
