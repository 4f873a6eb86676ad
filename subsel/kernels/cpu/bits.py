"""Jaccard (or Tanimoto) similarity of rows of bits, from bit counts of whole words."""

import numpy as np
from numba import prange

from subsel.kernels.compiling import inner, intrinsic, kernel

_CHUNK = 1024
"""Rows that one thread goes through together."""


def _ones_in_python(word):
    return int(word).bit_count()


@intrinsic(_ones_in_python)
def _ones(typingctx, word):
    """How many bits of a word are 1."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return word(word), codegen


@kernel
def counts(words):
    """How many bits of each row (n, w) of uint64 are 1: (n,)."""
    out = np.zeros(len(words), np.int64)
    for i in range(len(words)):
        for k in range(words.shape[1]):
            out[i] += np.int64(_ones(words[i, k]))
    return out


@inner
def _jaccard_of_chunk(words, sizes, row, size, apart, c, out):
    for i in range(c * _CHUNK, min((c + 1) * _CHUNK, len(words))):
        common = np.int64(0)
        for k in range(row.size):
            common += np.int64(_ones(words[i, k] & row[k]))
        either = sizes[i] + size - common
        if either == 0:  # of two rows of zeros
            out[i] = 0.0 if apart else 1.0
        else:
            out[i] = (either - common if apart else common) / either


@kernel
def jaccard_serial(words, sizes, row, size, apart, out):
    """Jaccard similarity of each row to one row, or 1 less that (`apart`); `sizes`: `counts`."""
    for c in range(-(-len(words) // _CHUNK)):
        _jaccard_of_chunk(words, sizes, row, size, apart, c, out)


@kernel(parallel=True)
def jaccard_parallel(words, sizes, row, size, apart, out):
    """The same on all threads."""
    for c in prange(-(-len(words) // _CHUNK)):
        _jaccard_of_chunk(words, sizes, row, size, apart, c, out)
