"""What the machine can do: the limits that workloads are compared with."""

import math
import time

import numpy as np
from numba import njit, prange

LANES = 64


@njit(parallel=True, cache=True)
def copy(source, target):
    """STREAM's copy: one read and one write of each element."""
    for i in prange(len(source)):
        target[i] = source[i]


@njit(parallel=True, fastmath=True, cache=True)
def read_once(matrix):
    """The least that can be done with a matrix: look at each entry, all threads together."""
    entries, sums = matrix.reshape(-1), np.zeros(64, matrix.dtype)
    step = entries.size // sums.size
    for piece in prange(sums.size):
        total = sums.dtype.type(0)
        part = entries[piece * step : (piece + 1) * step]
        for j in range(step):
            total += part[j]
        sums[piece] = total
    return sums.sum()


@njit(parallel=True, fastmath={"contract"}, cache=True)
def every_pair(tiles, rows, low, span, grid, gains):
    """All n x n terms of facility location on distances: nothing skipped, nothing kept.

    gains[j] = sum over i of clamp(-||x_i - x_j||, rounded to the grid, less low[i], to 0..span[i]),
    by exact differences and fused multiply-adds, tiles of LANES columns against four rows at once.
    """
    d = rows.shape[1]
    up, down = grid
    for b in prange(len(tiles)):
        out = np.zeros(LANES)
        squares = np.empty(4 * LANES, rows.dtype)
        for i in range(0, len(rows), 4):
            squares[:] = 0
            for k in range(d):
                line = tiles[b, k * LANES : (k + 1) * LANES]
                x0, x1, x2, x3 = rows[i, k], rows[i + 1, k], rows[i + 2, k], rows[i + 3, k]
                for j in range(LANES):
                    t = line[j] - x0
                    squares[j] += t * t
                    t = line[j] - x1
                    squares[LANES + j] += t * t
                    t = line[j] - x2
                    squares[2 * LANES + j] += t * t
                    t = line[j] - x3
                    squares[3 * LANES + j] += t * t
            for q in range(4):
                part = squares[q * LANES : (q + 1) * LANES]
                least, most = low[i + q], span[i + q]
                for j in range(LANES):
                    t = -math.floor(math.sqrt(part[j]) * up + np.float32(0.5)) * down - least
                    t = t if t > 0 else np.float32(0)
                    out[j] += np.float64(t if t < most else most)
        gains[b * LANES : (b + 1) * LANES] = out


def every_pair_of(X):
    """A call of `every_pair` on the rows of X, less those that do not fill a tile."""
    n, d = len(X) // LANES * LANES, X.shape[1]
    X = np.array(X[:n])
    tiles = np.ascontiguousarray(X.reshape(-1, LANES, d).transpose(0, 2, 1)).reshape(-1, d * LANES)
    reach = np.full(n, np.abs(X).max(), X.dtype)
    grid = X.dtype.type(2**20), X.dtype.type(2**-20)
    return lambda: every_pair(tiles, X, -reach, 2 * reach, grid, np.empty(n))


def measure(repeats=5):
    """Bytes a second of a copy, and multiply-adds counted as two a second of sgemm."""
    source, target = np.ones(2**25), np.zeros(2**25)
    A = np.random.default_rng(0).random((4096, 4096), np.float32)
    copy(source, target)
    copying = median(lambda: copy(source, target), repeats)
    multiplying = median(lambda: A @ A, repeats)
    return {"bandwidth": 2 * source.nbytes / copying, "flops": 2 * 4096**3 / multiplying}


def median(run, repeats):
    """Seconds, median of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
