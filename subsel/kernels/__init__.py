"""Kernels: plain functions of arrays. `reference` is the specification, `cpu` the Numba form."""
