"""Numba kernels on the CPU.

From the bottom up: `vectors` holds the code in LLVM's language, `lanes` computes similarities,
`log` records changes of representatives, `stores` reads or computes similarities, `search` is
greedy facility location, `classes` is the same for many small classes, `swaps` improves a
selection, `whole` works over all pairs at once, `order` prepares features, and `near` finds rows at
a small distance.
"""

from subsel.kernels.compiling import single_thread, threads
from subsel.kernels.cpu.classes import Classes, Picks, select_in_classes
from subsel.kernels.cpu.log import (
    ADDED,
    LOGGED,
    RUNS,
    SEEN,
    TODO,
    GeneralSearch,
    Limits,
    Search,
)
from subsel.kernels.cpu.near import close_near
from subsel.kernels.cpu.order import radii, radius, ranges, spatial_order, unit_rows
from subsel.kernels.cpu.search import (
    add,
    advance,
    represent,
    settle_parallel,
    settle_with,
    sweep_rows,
)
from subsel.kernels.cpu.stores import Columns, Dense, Sparse, Tiled
from subsel.kernels.cpu.swaps import (
    LOOKED,
    QUIET,
    SWAPPED,
    Swaps,
    begin_swaps,
    judge_swaps,
    scan_swaps,
)
from subsel.kernels.cpu.vectors import COSINE, DOT, EUCLIDEAN, LANES, RBF, ROWS
from subsel.kernels.cpu.whole import (
    is_symmetric,
    scan,
    sum_pairs,
    sum_pairs_parallel,
    tile_matrix,
    tile_matrix_parallel,
    turned,
    write_above,
)

__all__ = [
    "ADDED",
    "COSINE",
    "DOT",
    "EUCLIDEAN",
    "LANES",
    "LOGGED",
    "LOOKED",
    "QUIET",
    "RBF",
    "ROWS",
    "RUNS",
    "SEEN",
    "SWAPPED",
    "TODO",
    "Classes",
    "Columns",
    "Dense",
    "GeneralSearch",
    "Limits",
    "Picks",
    "Search",
    "Sparse",
    "Swaps",
    "Tiled",
    "add",
    "advance",
    "begin_swaps",
    "close_near",
    "is_symmetric",
    "judge_swaps",
    "radii",
    "radius",
    "ranges",
    "represent",
    "scan",
    "scan_swaps",
    "select_in_classes",
    "settle_parallel",
    "settle_with",
    "single_thread",
    "spatial_order",
    "sum_pairs",
    "sum_pairs_parallel",
    "sweep_rows",
    "threads",
    "tile_matrix",
    "tile_matrix_parallel",
    "turned",
    "unit_rows",
    "write_above",
]
