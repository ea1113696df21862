"""What members predict together, for many rows: a part at a time, so that memory does not grow with the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manyfit.data.kinds import Ability, FitData, leaves, map_leaves
from manyfit.data.rows import Rows
from manyfit.ensemble.outputs import Outputs, Prediction
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.prediction import EnsembleProgram
from manyfit.ensemble.problem import PredictionTask

_MOST_BYTES = 1 << 26  # of the members' answers that are held at once; combining them takes about four times as much


def in_parts(
    program: EnsembleProgram,
    x: FitData,
    *,
    batch_size: int,
    pool: Pool,
    task: PredictionTask,
    outputs: Outputs,
    num_outputs: int,
) -> Prediction:
    """What members predict together, for as many rows at a time as their answers leave room for.

    Pools look at one row at a time, so it is the same as for all rows at once. Parts end where batches do, and the last
    one is no shorter than a batch: no further shape is compiled.

    Args:
        program: predicts all members.
        x: rows; a pipeline is predicted at once.
        batch_size: rows per batch.
        pool: see `combined`, as for the others.
        task: what they predict.
        outputs: how predictions are laid out.
        num_outputs: columns of the answer.
    """
    rows = Rows.of(x)
    num_rows = rows.num_rows if rows.can(Ability.TAKEN) else None
    if num_rows is None or num_rows < 2 * batch_size:
        return combined(program.predict(x, batch_size=batch_size), pool, task, outputs, num_outputs)
    parts: list[Prediction] = []
    start, size = 0, batch_size  # one batch first: how much an answer takes is not known before
    while start < num_rows:
        stop = start + size if num_rows - start - size >= batch_size else num_rows
        found = program.predict(rows.take(slice(start, stop)).x, batch_size=batch_size)
        parts.append(combined(found, pool, task, outputs, num_outputs))
        row_bytes = sum(np.asarray(one).nbytes for answer in found for one in leaves(answer)) / (stop - start)
        start, size = stop, max(1, int(_MOST_BYTES // max(row_bytes, 1) // batch_size)) * batch_size
    return map_leaves(lambda *some: np.concatenate(some), *parts)


def combined(
    found: Sequence[Prediction], pool: Pool, task: PredictionTask, outputs: Outputs, num_outputs: int
) -> Prediction:
    """What members predict together.

    Args:
        found: what each member with weight predicted.
        pool: of all members.
        task: what they predict.
        outputs: how predictions are laid out.
        num_outputs: columns of the answer.

    Returns:
        See `Ensemble.predict`.
    """
    if outputs.several:
        flat = np.stack([outputs.flat(one) for one in found]).astype(np.float64)
        return outputs.structured(pool.combine(flat, task).astype(np.float32))
    arrays = [np.asarray(one) for one in found]
    if task.two_class and num_outputs == 1:
        arrays = [array[..., -1:] for array in arrays]
    inner = arrays[0].shape[:-1]
    stacked = np.zeros((len(arrays), *inner, num_outputs))  # a member may know fewer classes
    for place, array in zip(stacked, arrays, strict=True):
        place[..., : array.shape[-1]] = array
    pooled = pool.combine(stacked.reshape(len(arrays), -1, num_outputs), task)
    return pooled.astype(np.float32).reshape(*inner, num_outputs)
