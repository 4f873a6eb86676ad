"""Makes Numba's CUDA simulator exact, strict, and fast enough for tests; `install` it first.

The simulator's fused multiply-add is not fused, and it lacks multiplication that must not be. Its
threads poll each other. Here the threads of a block take turns, from barrier to barrier and in
alternating order; one that ends while others wait at a barrier is an error.
"""

import math
import sys
import threading
from fractions import Fraction

import numpy as np


def install():
    """Change the simulator; only where NUMBA_ENABLE_CUDASIM was set before Numba was imported."""
    from numba.cuda import libdevice
    from numba.cuda.simulator import kernel, kernelapi

    libdevice.dmul_rn = lambda x, y: x * y
    kernelapi.FakeCUDAModule.fma = lambda _, x, y, z: fma(x, y, z)
    kernelapi.FakeCUDAShared.array = shared_array
    kernel.BlockManager.run = run_block


def fma(x, y, z):
    """x * y + z, rounded once."""
    if isinstance(z, np.float32):
        x, y, z = float(x), float(y), float(z)
        product = x * y  # exact in float64
        total = product + z
        rest = total - product
        lost = (product - (total - rest)) + (z - rest)
        # A float64 rounded to odd can be rounded again, to float32, as if it were the exact sum.
        if lost and not int(math.ldexp(math.frexp(total)[0], 53)) & 1:
            total = math.nextafter(total, math.copysign(math.inf, lost))
        return np.float32(total)
    return np.float64(float(Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))))


def shared_array(self, shape, dtype):
    """One array for each line of code that asks for one."""
    from numba.cuda import types
    from numba.cuda.np.numpy_support import as_dtype

    frame = sys._getframe(1)
    key = frame.f_code, frame.f_lineno
    if key not in self._allocations:
        dtype = as_dtype(dtype) if isinstance(dtype, types.Type) else dtype
        self._allocations[key] = np.empty(shape, dtype)
    return self._allocations[key]


class Lane(threading.Thread):
    """One thread of a block, and of the blocks after it."""

    def __init__(self, position):
        super().__init__(daemon=True)
        from numba.cuda.simulator.kernelapi import Dim3

        self.threadIdx = Dim3(*position)
        self.go, self.back = threading.Lock(), threading.Lock()
        self.go.acquire()
        self.back.acquire()
        self.start()

    def run(self):
        while True:
            self.go.acquire()
            self.error = None
            try:
                self.task()
            except BaseException as error:
                self.error = error
            self.finished = True
            self.back.release()

    def syncthreads(self):
        self.back.release()
        self.go.acquire()

    def step(self):
        """Go on to the next barrier, or to the end."""
        self.finished = False
        self.go.release()
        self.back.acquire()


pool = {}


def run_block(self, grid_point, *args):
    """Run one block of a kernel, in place of `BlockManager.run`."""
    from numba.cuda.simulator.kernelapi import Dim3

    positions = list(np.ndindex(*self._block_dim))
    lanes = [pool[p] if p in pool else pool.setdefault(p, Lane(p)) for p in positions]
    for lane in lanes:
        lane.blockIdx = Dim3(*grid_point)
        lane.task = lambda: self._f(*args)
    while True:
        for lane in lanes:
            lane.step()
            if lane.finished and lane.error:
                pool.clear()  # the others wait at a barrier
                raise lane.error
        finished = {lane.finished for lane in lanes}
        if finished == {True}:
            return
        if True in finished:
            pool.clear()
            raise RuntimeError("some threads wait at a barrier that others do not reach")
        lanes.reverse()
