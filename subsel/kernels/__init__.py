"""Kernels: plain functions of arrays. `reference` specifies; `cpu` and `cuda` compute."""
