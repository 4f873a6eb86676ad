"""Functions that only kernels call are not optimized alone, but as a part of each kernel.

Numba optimizes every function alone and makes machine code of it. It then links the function into
every caller, and optimizes it there again. In a search of eight layers, the lowest function is
optimized eight times, and only the last result runs. Here such a part is only typed and lowered,
once.

It builds on classes of Numba that are not public. Where a version of Numba lacks them, this module
cannot be imported, and `subsel.kernels.compiling` leaves parts to Numba.
"""

from typing import Any

from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler import Compiler


class _Part(CPUCodeLibrary):
    """The code of a function, for linking alone."""

    def _optimize_final_module(self) -> None:
        """Do nothing: the code is optimized where it is linked in."""

    def _optimize_functions(self, module: Any) -> None:
        """Do nothing, for the same reason."""
        module.data_layout = self._codegen._data_layout

    def _finalize_final_module(self) -> None:
        """Make no machine code."""
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """None: Python cannot call the function."""
        return 0

    @property
    def codegen(self) -> Any:
        """Numba asks this for the globals of machine code, which a part does not have."""
        return self

    def set_env(self, name: str, env: Any) -> None:
        """Nothing: see `codegen`."""


class PartCompiler(Compiler):
    """Numba's compiler, for a function that no one calls from Python."""

    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        super().__init__(typing, target, _Part(target.codegen(), "part"), *rest)
