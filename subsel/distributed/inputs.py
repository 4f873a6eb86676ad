"""Makes a source of chunks from X as the user gave it."""

import math
from typing import Any

import numpy as np

from subsel.distributed.chunks import Chunk, Cut, Graph, Held, Mapped, Source
from subsel.validation import as_float_array, check_matrix_shape


def source_of(X: Any, most: int, *, sent: bool) -> Source:
    """The chunks of X: its own if it is a dask array, else of at most `most` rows each.

    `sent` says that tasks run in other processes. An array is then sent to them in parts; a
    memory-mapped array is not, because they can map its file themselves.
    """
    if type(X).__module__.split(".")[0].startswith("dask") and hasattr(X, "__dask_graph__"):
        return _of_dask(X)
    if hasattr(X, "tocsr"):
        raise TypeError(
            "X is sparse, and partitions are dealt from dense arrays: use subsel.select, which "
            "leaves it sparse, or pass X.toarray()"
        )
    return _of_array(X, most, sent)


def _of_dask(X: Any) -> Source:
    import dask
    import dask.array as da

    if not isinstance(X, da.Array):
        raise TypeError(f"X is a dask {type(X).__name__}; pass its .to_dask_array(lengths=True)")
    if any(math.isnan(size) for sizes in X.chunks for size in sizes):
        raise ValueError("X has chunks of unknown sizes; call X.compute_chunk_sizes() first")
    check_matrix_shape(X.shape, "X", "(n, d)")
    if not isinstance(X._meta, np.ndarray) or isinstance(X._meta, np.ma.MaskedArray):
        raise TypeError(f"X must have chunks of NumPy arrays, not of {type(X._meta).__name__}")
    n, d = X.shape
    dtype = as_float_array(np.empty((0, 1), X.dtype), "X").dtype
    if len(X.chunks[1]) > 1:
        X = X.rechunk({1: d})
    graph = dict(X.__dask_graph__())
    ends = np.cumsum(X.chunks[0]).tolist()
    chunks = []
    for number, (size, stop) in enumerate(zip(X.chunks[0], ends, strict=True)):
        if size:
            key = (X.name, number, 0)
            own, _ = dask.optimization.cull(graph, [key])
            needs = {name: own.pop(name) for name in list(own) if hasattr(own[name], "client")}
            load = Graph(own, key, needs)
            chunks.append(Chunk(number, stop - size, stop, d, dtype, load))
    return Source(n, d, dtype, chunks, max(X.chunks[0]), lazy=X)


def _of_array(X: Any, most: int, sent: bool) -> Source:
    if not isinstance(X, np.ndarray) or isinstance(X, np.ma.MaskedArray) or X.dtype.kind == "O":
        X = as_float_array(X, "X")
    check_matrix_shape(X.shape, "X", "(n, d)")
    n, d = X.shape
    dtype = as_float_array(X[:0], "X").dtype
    step = max(1, min(most, 4096, 2**24 // (d * X.itemsize)))
    mapped = Mapped.of(X)
    chunks = []
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        load = Cut(mapped, rows) if sent and mapped is not None else Held(X[rows])
        chunks.append(Chunk(None, rows.start, rows.stop, d, dtype, load))
    return Source(n, d, dtype, chunks, 1, sent=X if sent and mapped is None else None)
