"""Pools: how the predictions of several members become one. A new one is a class and an entry in `POOLS`."""

from manyfit.ensemble.pools.base import Pool, TemperedPool, log_clipped, sharpened, softmax, spread
from manyfit.ensemble.pools.means import ExponentialPool, GeometricPool, LinearPool, PowerPool, single
from manyfit.ensemble.pools.rank_and_stacking import RankPool, StackingPool, rank_pool

POOLS: dict[str, type[Pool]] = {
    pool.kind: pool for pool in (LinearPool, GeometricPool, PowerPool, ExponentialPool, RankPool, StackingPool)
}
"""Every pool by its name in files; a saved ensemble holds one of these."""

__all__ = [
    "ExponentialPool", "GeometricPool", "LinearPool", "POOLS", "Pool", "PowerPool", "RankPool", "StackingPool",
    "TemperedPool", "log_clipped", "rank_pool", "sharpened", "single", "softmax", "spread",
]  # fmt: skip
