"""Greedy facility location of many small classes, all in one call.

A class of a few dozen rows takes microseconds, and each step in Python takes one. So the loop over
classes is here, with a search of its own: the similarities of a class fit into the cache, and no
bounds are needed. Sums are exact (see `subsel.kernels.cpu.lanes`), so selections and gains have the
bits of the other search.
"""

from typing import NamedTuple

import numpy as np

from subsel.kernels.compiling import inner, kernel
from subsel.kernels.cpu.lanes import clamp, room, similarities
from subsel.kernels.cpu.order import place_largest
from subsel.kernels.cpu.vectors import LANES, four_lines

_TURNED = 16
"""Features that are written into a tile together, a line of the cache for each row."""


class Classes(NamedTuple):
    """Rows of classes, one class after the other, and the scale of the similarities of each class.

    The rows of class c are ``rows[starts[c] : starts[c + 1]]``. Stored similarities are at least
    `lows`, on the grid of `ups` and `downs`, and are `units` of real ones.
    """

    rows: np.ndarray
    starts: np.ndarray
    metric: int
    gammas: np.ndarray
    ups: np.ndarray
    downs: np.ndarray
    lows: np.ndarray
    units: np.ndarray


class Picks(NamedTuple):
    """What is selected: the picks of class c are those from ``starts[c]`` to ``starts[c + 1]``.

    By pick: `elements`, which are positions in the rows, and `gains`. By row: `assigned`, the
    position of a pick. By class: `bounds`, upper bounds of F.
    """

    starts: np.ndarray
    elements: np.ndarray
    gains: np.ndarray
    assigned: np.ndarray
    bounds: np.ndarray


class _Room(NamedTuple):
    """Scratch space for the largest class: its tiles and `pairs`, its similarities, row by row."""

    tiles: np.ndarray
    pairs: np.ndarray
    best: np.ndarray
    gains: np.ndarray
    keys: np.ndarray
    taken: np.ndarray
    places: np.ndarray


@inner
def _compare(classes, c, space):
    """Compute the similarities of the rows of a class to one another."""
    rows, tiles = classes.rows, space.tiles
    start, last = classes.starts[c], classes.starts[c + 1] - 1
    width = -(-(last + 1 - start) // LANES) * LANES
    for b in range(width // LANES):
        for left in range(0, rows.shape[1], _TURNED):
            for j in range(LANES):
                row = min(start + b * LANES + j, last)  # the last row is repeated, for padding
                for k in range(left, min(left + _TURNED, rows.shape[1])):
                    tiles[b, k * LANES + j] = rows[row, k]
    quad = four_lines(tiles)
    for a in range(width // LANES):
        for b in range(a, width // LANES):  # the others are mirrored
            for i in range(a * LANES, min((a + 1) * LANES, last + 1 - start), 4):
                row = start + i
                picked = (row, min(row + 1, last), min(row + 2, last), min(row + 3, last))
                similarities(
                    tiles[b], rows, picked, classes.metric, classes.gammas[c], classes.ups[c],
                    classes.downs[c], quad,
                )  # fmt: skip
                for q in range(4):
                    for j in range(LANES):
                        space.pairs[i + q, b * LANES + j] = quad[q * LANES + j]
                if b > a:
                    for j in range(LANES):
                        for q in range(4):
                            space.pairs[b * LANES + j, i + q] = quad[q * LANES + j]
    return width


@inner
def _change(space, i, low, high, sign, width):
    """Change all gains by what a point adds if its similarity rises from `low` up to `high`."""
    line, gains = space.pairs[i, :width], space.gains[:width]
    number = line.dtype.type
    low_, high_ = number(low), number(high)
    for j in range(gains.size):
        gains[j] += sign * (np.float64(clamp(line[j], low_, high_)) - low)


@inner
def _largest_sum(space, n, k, up, down):
    """The sum of the k largest gains of candidates that are not taken, rounded once.

    Gains are whole numbers of steps of the grid, of 53 bits, so 64 bits hold the sum of 1024.
    """
    keys = space.keys
    for j in range(n):
        keys[j] = 0.0 if space.taken[j] else space.gains[j]
    if k < n:
        place_largest(keys, space.places, 0, n, n - k)
    total = np.int64(0)
    for j in range(n - k, n):
        total += np.int64(keys[j] * np.float64(up))
    return np.float64(total) * np.float64(down)


@inner
def _search(classes, c, picks, space):
    """Greedy selection in one class."""
    start, n = classes.starts[c], classes.starts[c + 1] - classes.starts[c]
    first, k = picks.starts[c], picks.starts[c + 1] - picks.starts[c]
    up, down, low, unit = classes.ups[c], classes.downs[c], classes.lows[c], classes.units[c]
    width = _compare(classes, c, space)
    best, gains, taken = space.best, space.gains, space.taken
    for j in range(width):
        gains[j] = 0.0
    for i in range(n):
        best[i], taken[i], picks.assigned[start + i] = low, False, first
        _change(space, i, low, np.inf, 1.0, width)
    bound = _largest_sum(space, n, k, up, down)
    value = 0.0
    for step in range(k):
        top, element = -np.inf, 0
        for j in range(n):
            if not taken[j] and gains[j] > top:
                top, element = gains[j], j
        taken[element] = True
        picks.elements[first + step], picks.gains[first + step] = start + element, top * unit
        # No later candidate can gain more than this one did.
        bound = min(bound, value + top * k)
        value += top
        for i in range(n):
            s = np.float64(space.pairs[element, i])
            if s > best[i]:
                _change(space, i, best[i], s, -1.0, width)
                best[i], picks.assigned[start + i] = s, first + step
    if bound > value:
        bound = min(bound, value + _largest_sum(space, n, k, up, down))
    picks.bounds[c] = max(bound, value) * unit


@kernel
def select_in_classes(classes, picks):
    """Select in each class, greedily, as many rows as there is room for in `picks`.

    O(sum of n_c^2 (d + ln k_c)) time; memory O(n^2) for the largest class.
    """
    largest = 0
    for c in range(classes.starts.size - 1):
        largest = max(largest, classes.starts[c + 1] - classes.starts[c])
    tiles = -(-largest // LANES)
    width, d = tiles * LANES, classes.rows.shape[1]
    rows, sums = classes.rows, classes.lows
    space = _Room(
        tiles=room(tiles * LANES * d, rows).reshape(tiles, LANES * d),
        pairs=room(width * width, rows).reshape(width, width),
        best=room(width, sums),
        gains=room(width, sums),
        keys=room(width, sums),
        taken=np.empty(width, np.bool_),
        places=room(width, classes.starts),
    )
    for c in range(classes.starts.size - 1):
        _search(classes, c, picks, space)
