"""Rules of coverage objectives: how similarities combine, and the worth of a point.

A coverage objective is F(S) = sum over points i of worth(level_i), where adding a candidate j turns
the level of point i into join(level_i, s_ij). A rule is a named tuple of parameters, scalars or
arrays with one entry for each point, and two scalar functions that are registered for its type:

    class Saturated(NamedTuple):
        cap: np.ndarray

    @join.of(Saturated)
    def _add(rule, level, s):
        return level + s

    @worth.of(Saturated)
    def _capped(rule, i, level):
        return min(level, rule.cap[i])

These few lines serve every backend: they are compiled into the CPU's kernels, compiled for CUDA,
and called as plain Python on the CUDA simulator and without the JIT. A similarity of 0 must not
change a level. F is monotone and submodular if worth is nondecreasing and concave in what is added.
The level of a point begins at the rule's `start`, 0 unless it says so.

Where similarities add up and worth is the level up to a cap, a third function `left` may say how
much of a similarity a point can still take: then its term is min(s, left), and gains can follow the
few points that are near their cap. For that, sums must be exact: `join` has to round similarities
to a grid, on which caps and the sums of all similarities lie.
"""

from subsel.kernels.compiling import by_type


@by_type
def join(rule, level, s):
    """The level of a point once a candidate of similarity `s` is added."""


@by_type
def worth(rule, i, level):
    """What point `i` is worth at a level."""


@by_type(inline=True)
def left(rule, i, level):
    """How much of a similarity point `i` can still take at a level."""


def start(rule):
    """The level of every point while nothing is selected."""
    return getattr(rule, "start", 0.0)
