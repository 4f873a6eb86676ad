"""How rows are divided among partitions, how these are merged, and what is drawn at random."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from subsel import sources
from subsel.distributed.goal import FRACTION, Goal
from subsel.distributed.limits import Limits
from subsel.distributed.rows import Rows
from subsel.sources.features import conditioned
from subsel.sources.scale import Scale
from subsel.validation import check_count, read_only

MAX_ROWS = 50_000
"""The default number of rows that a task may hold."""

DRAWN = 4096
"""The number of rows from which a row's similarity to all rows is estimated."""

_BLOCKS, _ROWS, _SAMPLE, _DRAWN = range(4)
"""Purposes of random numbers; each purpose has a stream of its own."""


class Node(NamedTuple):
    """A partition (level 0), or a merge of `children`, which are nodes of the level below."""

    level: int
    number: int
    children: list["Node"]


@dataclass
class Plan:
    """Everything that tasks need to know beside the rows."""

    n: int
    sizes: list[int]
    counts: list[int]
    metric: str
    memory: int
    backend: str
    seed: int
    max_rows: int
    taken: int
    partitions: int
    spread: int
    branches: int
    share: int
    goal: Goal = field(default_factory=Goal)
    limits: Limits = field(default_factory=Limits)
    scales: list[Scale] = field(default_factory=list)
    held: list[Rows] = field(default_factory=list)  # of each class, those that are given
    drawn: np.ndarray | None = None  # features of the rows that say what all similarity is

    def random(self, *place: int) -> np.random.Generator:
        """Random numbers for one place, which a few counts identify."""
        return np.random.default_rng([self.seed, *place])

    def _group(self, partition: int) -> tuple[int, int, np.ndarray]:
        """The group of partitions that share blocks, the place in it, and the blocks (m, 2)."""
        groups = -(-self.partitions // self.spread)
        bounds = np.arange(groups + 1) * self.partitions // groups
        group = int(np.searchsorted(bounds, partition, side="right")) - 1
        order = self.random(_BLOCKS).permutation(self.partitions)
        blocks = np.sort(order[bounds[group] : bounds[group + 1]])
        ends = np.arange(self.partitions + 1) * self.n // self.partitions
        return (
            group,
            partition - int(bounds[group]),
            np.column_stack([ends[blocks], ends[blocks + 1]]),
        )

    def blocks(self, partition: int) -> np.ndarray:
        """First row and end of each block from which a partition's rows are drawn (m, 2)."""
        return self._group(partition)[2]

    def rows(self, partition: int) -> np.ndarray:
        """The rows of a partition, ascending. No row is in two partitions."""
        group, place, blocks = self._group(partition)
        first, lengths = blocks[:, 0], blocks[:, 1] - blocks[:, 0]
        total = int(lengths.sum())
        wanted = total
        if self.taken < self.n:
            wanted = min(total, -(-self.taken * len(blocks) // self.partitions))
        drawn = self.random(_ROWS, group).choice(total, wanted, replace=False)
        mine = np.sort(drawn[place :: len(blocks)])
        before = np.cumsum(lengths) - lengths
        block = np.searchsorted(before, mine, side="right") - 1
        return first[block] + mine - before[block]

    def tree(self) -> list[Node]:
        """All nodes, each after its children, in an order in which few results wait at a time."""
        level, nodes = 0, [Node(0, p, []) for p in range(self.partitions)]
        while len(nodes) > 1:
            level += 1
            parents = -(-len(nodes) // self.branches)
            nodes = [
                Node(level, p, nodes[p * self.branches : (p + 1) * self.branches])
                for p in range(parents)
            ]

        def below(node: Node) -> Iterator[Node]:
            for child in node.children:
                yield from below(child)
            yield node

        return list(below(nodes[0]))

    def draw(self, c: int, count: int, level: int, number: int) -> np.ndarray:
        """Which of `count` rows of a class a node passes on as its sample."""
        if not self.goal.sampled:
            return np.empty(0, np.int64)
        wanted = min(count, max(1, self.share * self.counts[c] // sum(self.counts)))
        return self.random(_SAMPLE, c, level, number).choice(count, wanted, replace=False)

    def drawn_rows(self) -> np.ndarray:
        """The rows (ascending) from which `caps` estimates the similarity of a row to all rows."""
        if "saturated_coverage" not in self.goal.names:
            return np.empty(0, np.int64)
        drawn = self.random(_DRAWN).choice(self.n, min(self.n, DRAWN), replace=False)
        return np.sort(drawn)

    def caps(self, c: int, points: np.ndarray) -> np.ndarray:
        """For each point the similarity that satisfies it in saturated coverage of all rows."""
        assert self.drawn is not None
        sums = self.similarity(c, points, self.drawn).row_sums()
        return FRACTION * (self.sizes[c] / len(self.drawn)) * sums

    def similarity(self, c: int, points: np.ndarray, candidates: np.ndarray | None = None) -> Any:
        """Similarities of rows of a class to one another or to others, in the units of all rows."""
        rows = points if candidates is None else np.concatenate([points, candidates])
        scale = self.scales[c]
        ready = conditioned(read_only(rows), self.metric, scale)
        source = sources.conditioned(ready, self.metric, scale, self.sizes[c], self.backend)
        return source if candidates is None else source.facing(len(points))


def layout(
    n: int,
    k: int,
    partitions: int | None,
    max_rows: int | None,
    spread: Any,
    sample: int | None,
    largest: int,
    counted: bool = True,
) -> dict[str, Any]:
    """Partitions and a tree in which no task holds more than `max_rows` rows.

    `k` is the budget or, if it is not `counted`, the most rows that may be selected. `largest` is
    the number of rows in the largest chunk of X.
    """
    where_from = "" if counted else f" ({k} rows are the most that may be selected together)"
    spread = check_count(spread, "spread", 1)
    taken = n if sample is None else check_count(sample, "sample", k, n)
    if partitions is not None:
        partitions = check_count(partitions, "partitions", 1, taken)
    if max_rows is None:
        max_rows = max(MAX_ROWS, largest)
        if partitions is not None:
            max_rows = max(max_rows, -(-taken // partitions), 4 * partitions * k)
    if largest > max_rows:
        raise ValueError(
            f"X has a chunk of {largest} rows, more than max_rows={max_rows}: rechunk X"
        )
    fewest = -(-taken // max_rows)
    partitions = fewest if partitions is None else partitions
    if partitions < fewest:
        raise ValueError(
            f"{partitions} partitions of {taken} rows have more than max_rows={max_rows} rows; "
            f"at least {fewest} are needed"
        )
    # For each branch, a merge holds the branch's selection, its best single partition's selection,
    # and a sample of at least as many rows.
    widest = max_rows // (4 * k)
    if partitions > 1 and widest < 2:
        raise ValueError(
            f"max_rows must be at least 8 times the budget, {8 * k}, to merge partitions; "
            f"not {max_rows}{where_from}"
        )
    levels = 0
    while partitions > 1 and widest**levels < partitions:
        levels += 1
    branches = 1
    while branches**levels < partitions:
        branches += 1
    return {
        "max_rows": max_rows,
        "taken": taken,
        "partitions": partitions,
        "spread": spread,
        "branches": max(branches, 2),
        "share": max_rows // max(branches, 2) - 2 * k,
    }
