"""Gains of any coverage objective on a GPU, computed by the scalar functions of its rule.

This does what `subsel.kernels.cpu.coverage` does on the CPU, with the same exact sums of rounded
terms, so gains have the same bits. The functions of a rule are compiled into kernels of their own,
once in a process.
"""

import functools

from numba import cuda, float64

from subsel.kernels.cpu.vectors import DOT
from subsel.kernels.cuda.tiles import THREADS, quantize, similarity
from subsel.kernels.rules import join, worth

_WHOLE = 2.0**52
"""From here on, float64 numbers have no fractions."""


@cuda.jit(device=True, inline="always")
def _of_features(store, i, slot):
    """The stored similarity of a point and a candidate, computed from their features."""
    x = store.rows.dtype.type(0)
    for k in range(store.rows.shape[1]):
        u, v = store.columns[slot, k], store.rows[i, k]
        if store.metric == DOT:
            x = cuda.fma(u, v, x)
        else:
            u -= v
            x = cuda.fma(u, u, x)
    return float64(similarity(x, store.metric, store.rule, 0, store.whole))


@cuda.jit(device=True, inline="always")
def _of_matrix(store, i, slot):
    """The stored similarity of a point and a candidate, from the matrix."""
    return float64(store.entries[i * store.candidates.size[0] + slot])


@functools.cache
def kernels(kind, from_features):
    """The kernels `evaluate` and `cover` for a type of rules and a kind of store."""
    stored = _of_features if from_features else _of_matrix
    joined = cuda.jit(device=True, inline="always")(join.bodies[kind])
    worth_of = cuda.jit(device=True, inline="always")(worth.bodies[kind])

    @cuda.jit
    def evaluate(store, rule, level, value, scale, slots, gains):
        """Add up the gains of candidates. One block for each candidate."""
        unit, offset, up, down = scale
        slot = slots[cuda.blockIdx.x]
        total = 0.0
        for i in range(cuda.threadIdx.x, store.points.size[0], THREADS):
            s = unit * (stored(store, i, slot) + offset)
            term = worth_of(rule, i, joined(rule, level[i], s)) - value[i]
            total += quantize(term, up, down, _WHOLE)
        cuda.atomic.add(gains, cuda.blockIdx.x, total)

    @cuda.jit
    def cover(store, rule, level, value, scale, slot, won):
        """Add a candidate: compute new levels and worths. One block for each LANES points."""
        unit, offset, up, down = scale
        i = cuda.grid(1)
        if i < store.points.size[0]:
            level[i] = joined(rule, level[i], unit * (stored(store, i, slot) + offset))
            now = worth_of(rule, i, level[i])
            cuda.atomic.add(won, 0, quantize(now - value[i], up, down, _WHOLE))
            value[i] = now

    return evaluate, cover


@functools.cache
def row_summing(from_features):
    """The kernel `sum_rows`: each point's similarities to all candidates, added on the grid."""
    stored = _of_features if from_features else _of_matrix

    @cuda.jit
    def sum_rows(store, up, down, sums):
        """One block for each LANES points."""
        i = cuda.grid(1)
        if i < store.points.size[0]:
            total = 0.0
            for slot in range(store.candidates.size[0]):
                total += quantize(stored(store, i, slot), up, down, _WHOLE)
            sums[i] = total

    return sum_rows
