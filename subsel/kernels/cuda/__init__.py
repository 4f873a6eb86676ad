"""Numba kernels of facility location on NVIDIA GPUs.

Many classes are searched at a time, each with points and candidates of its own, in *slots*: every
class begins at a multiple of LANES, and a tile of LANES slots belongs to one class. A *store* says
where similarities come from, features or matrices. The rest is the same for both, and a pick takes
three launches for all classes together:

``pick``
    Finds the best of the tiles' best candidates. One block for each class.
``cover_...``
    Compares each point of the class with the picked candidate. The points that are more similar to
    it than to their former representative are written to the class's list of `changed` points. One
    thread for each point.
``update_...``
    Subtracts from every candidate's gain what these points can no longer add, and finds the best
    candidate of each tile. One block for each tile of candidates; no other block writes to their
    gains. At the start, and if more than half of the points changed, gains are summed from scratch.

The list of changed points has no particular order. It needs none, because all sums are exact.
Similarities have the same bits as on the CPU: rounding to a grid, bounds and clamped sums are those
of `subsel.kernels.cpu`. No data crosses the bus until the elements are read.

From features, a block holds a tile of candidates and some points in shared memory, and each thread
holds EACH x EACH pairs of them in registers. Points that are too far from the box around a tile to
count for any of its candidates are left out before.

From the bottom up: `tiles` computes similarities, `search` is greedy, and `prepare` prepares
features.
"""

from subsel.kernels.cuda.prepare import (
    check,
    divide,
    find_boxes,
    find_radius,
    find_ranges,
    gather,
    gather_columns,
    scale_to_unit,
)
from subsel.kernels.cuda.search import (
    AFRESH,
    CHANGES,
    LEADS,
    Search,
    choose,
    cover_features,
    cover_matrices,
    pick,
    sum_won,
    update_features,
    update_matrices,
)
from subsel.kernels.cuda.tiles import (
    DEPTH,
    EACH,
    LANES,
    SIDE,
    THREADS,
    Features,
    Matrices,
    Slots,
    fill_matrices,
)

__all__ = [
    "AFRESH",
    "CHANGES",
    "DEPTH",
    "EACH",
    "LANES",
    "LEADS",
    "SIDE",
    "THREADS",
    "Features",
    "Matrices",
    "Search",
    "Slots",
    "check",
    "choose",
    "cover_features",
    "cover_matrices",
    "divide",
    "fill_matrices",
    "find_boxes",
    "find_radius",
    "find_ranges",
    "gather",
    "gather_columns",
    "pick",
    "scale_to_unit",
    "sum_won",
    "update_features",
    "update_matrices",
]
