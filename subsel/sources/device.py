"""An NVIDIA GPU: arrays in its memory, and kernels queued on a stream.

Importing this needs the package numba-cuda.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import config, cuda
from numba.cuda.cudadrv.driver import CudaAPIError

from subsel.kernels import cuda as kernels
from subsel.kernels.cuda import LANES, THREADS
from subsel.validation import as_float_array, float_type, in_gpu_memory

_OLDEST = (6, 0)
_RECORDED = 16  # rounds in a CUDA graph
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


def require_gpu() -> None:
    """Raise an error that says what is missing, and how to get it, if no GPU can be used.

    Raises
    ------
    RuntimeError
    """
    if config.ENABLE_CUDASIM:
        return
    if not cuda.is_available():
        raise RuntimeError(
            'backend="cuda" finds no NVIDIA GPU, or no driver for one: `nvidia-smi` must list a '
            'GPU, and `python -m numba -s` says what Numba found; or use backend="cpu"'
        )
    capability = cuda.get_current_device().compute_capability
    if tuple(capability) < _OLDEST:
        wanted, found = (".".join(map(str, pair)) for pair in (_OLDEST, capability))
        raise RuntimeError(
            f'backend="cuda" needs a GPU of compute capability {wanted} or later; this one has '
            f'{found}: use backend="cpu"'
        )


class Device:
    """The GPU, and the stream on which all work is queued."""

    def __init__(self, stream: Any = 0) -> None:
        require_gpu()
        self.stream = stream

    def empty(self, shape: Any, dtype: Any) -> Any:
        """An array of undefined contents."""
        return cuda.device_array(shape, dtype, stream=self.stream)

    def empty_or_none(self, shape: Any, dtype: Any) -> Any:
        """The same; None if the GPU does not have enough memory."""
        try:
            return self.empty(shape, dtype)
        except (CudaAPIError, MemoryError) as error:
            if isinstance(error, CudaAPIError) and int(error.args[0]) != _OUT_OF_MEMORY:
                raise
            return None

    def upload(self, array: np.ndarray) -> Any:
        """A copy in the GPU's memory."""
        return cuda.to_device(np.ascontiguousarray(array), stream=self.stream)

    def download(self, array: Any) -> np.ndarray:
        """A copy on the host, made after all queued work is done."""
        host = array.copy_to_host(stream=self.stream)
        self.synchronize()
        return host

    def run(self, kernel: Any, blocks: Any, threads: int, *arguments: Any) -> None:
        """Call a kernel once. It shares its compiled code with `repeat`."""
        self._launch(kernel.specialize(*arguments), blocks, threads)(*arguments)

    def repeat(self, steps: list[tuple], count: int) -> None:
        """Run kernels one after the other, `count` times. Each step has the form of the arguments
        of `run`.

        A launch takes the host longer than most of these kernels take on the GPU. So many rounds
        are recorded as a CUDA graph, which takes one launch.
        """
        if config.ENABLE_CUDASIM:
            for step in steps * count:
                self.run(*step)
            return
        # With no types to look up at each launch.
        steps = [(kernel.specialize(*rest[2:]), *rest) for kernel, *rest in steps]
        if count > 2 * _RECORDED:
            self._queue(steps, 1)  # loads the kernels
            graph = self._recorded(steps)
            if graph is not None:
                stream = self._launch(*steps[0][:3]).stream
                for _ in range((count - 1) // _RECORDED):
                    graph.launch(stream)
                self._queue(steps, (count - 1) % _RECORDED)
                self.synchronize()  # before the graph is destroyed
                return
            count -= 1
        self._queue(steps, count)

    def _queue(self, steps: list[tuple], count: int) -> None:
        launches = [(self._launch(*step[:3]), step[3:]) for step in steps]
        for launch, arguments in launches * count:
            launch(*arguments)

    def _recorded(self, steps: list[tuple]) -> Any:
        """Some rounds as a CUDA graph, or None."""
        try:
            from cuda.core import Device as CoreDevice

            core = CoreDevice()
            core.set_current()  # needed once in each thread; the context is Numba's
            builder = core.create_graph_builder().begin_building()
            Device(builder)._queue(steps, _RECORDED)
            return builder.end_building().complete()
        except Exception as error:
            warnings.warn(
                f"no CUDA graph could be recorded ({type(error).__name__}: {error}); kernels are "
                "launched one by one, which is slower",
                RuntimeWarning,
                stacklevel=2,
            )
            return None

    def synchronize(self) -> None:
        """Wait until all queued work is done."""
        if self.stream:
            self.stream.synchronize()
        else:
            cuda.synchronize()

    def _launch(self, kernel: Any, blocks: Any, threads: int) -> Any:
        with warnings.catch_warnings():  # so few blocks do not fill the GPU
            warnings.simplefilter("ignore")
            return kernel[blocks, threads, self.stream]

    def free_memory(self) -> float:
        """Bytes of the GPU's memory that are free."""
        return float(cuda.current_context().get_memory_info()[0])


@dataclass(frozen=True)
class Array:
    """A numeric array in the GPU's memory, and where to work on it."""

    data: Any
    device: Device

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.data.shape)

    def __len__(self) -> int:
        return len(self.data)

    def rows(self, indices: np.ndarray) -> "Array":
        """A copy of some rows."""
        slots = Layout.of([np.arange(len(indices))])
        dtype = float_type(self.data.dtype, "X")
        out = gathered(self.device, self.data, indices[slots.local], self.shape[1], dtype)
        return Array(out[: len(indices)], self.device)


def as_array(array: Any, name: str) -> Array:
    """An array in GPU memory. If it lies there already, it is not copied.

    For torch tensors, work is queued on torch's current stream. For other arrays, the stream that
    they name is waited for.
    """
    if isinstance(array, Array):
        return array
    if not in_gpu_memory(array):
        host = as_float_array(array, name)
        device = Device()
        return Array(device.upload(host), device)
    if type(array).__module__.split(".")[0] == "torch":
        return _of_tensor(array, name)
    device = Device()
    if hasattr(array, "__cuda_ndarray__"):  # Numba's own
        return Array(array, device)
    if hasattr(array, "__cuda_array_interface__"):
        return Array(cuda.as_cuda_array(array), device)
    import torch  # reads DLPack, Numba does not

    return _of_tensor(torch.from_dlpack(array), name)


def _of_tensor(tensor: Any, name: str) -> Array:
    import torch

    if str(tensor.layout) != "torch.strided" or tensor.is_complex():
        raise TypeError(f"{name} must be a dense real tensor, not {tensor.layout}, {tensor.dtype}")
    tensor = tensor.detach().resolve_neg()
    if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
        tensor = tensor.float()
    stream = torch.cuda.current_stream(tensor.device).cuda_stream
    device = Device(cuda.external_stream(stream) if stream else 0)
    current = cuda.current_context().device.id
    if tensor.device.index != current:
        raise ValueError(
            f"{name} lies on {tensor.device} but cuda:{current} is the current device: "
            f"torch.cuda.set_device({tensor.device.index}) first"
        )
    return Array(cuda.as_cuda_array(tensor), device)


@dataclass(frozen=True)
class Layout:
    """Places the members of each class in slots: first slot and size of each class, member of each
    slot.

    The last member also fills up the class's last tile.
    """

    start: np.ndarray
    size: np.ndarray
    local: np.ndarray

    @classmethod
    def of(cls, orders: list[np.ndarray]) -> "Layout":
        """Members in the order given, class by class."""
        size = np.array([len(order) for order in orders])
        start = np.concatenate([[0], np.cumsum(-(-size // LANES) * LANES)])
        filled = [np.pad(order, (0, -len(order) % LANES), mode="edge") for order in orders]
        return cls(start, size, np.concatenate(filled))

    @property
    def tiles(self) -> int:
        """The number of tiles."""
        return len(self.local) // LANES

    @property
    def group(self) -> np.ndarray:
        """Class of each tile."""
        return np.repeat(np.arange(len(self.size)), np.diff(self.start) // LANES)

    def members(self, by_slot: np.ndarray, c: int = 0) -> np.ndarray:
        """Values by slot, of a class, in the order of its members."""
        some = slice(self.start[c], self.start[c] + self.size[c])
        values = np.empty(self.size[c], by_slot.dtype)
        values[self.local[some]] = by_slot[some]
        return values

    def on(self, device: Device) -> kernels.Slots:
        """The layout in the form that kernels take."""
        return kernels.Slots(
            *map(device.upload, (self.start, self.size, self.group.astype(np.int32)))
        )

    def padding(self) -> np.ndarray:
        """True for padding slots, which hold no member."""
        lane = np.arange(len(self.local)) - np.repeat(self.start[:-1], np.diff(self.start))
        return lane >= np.repeat(self.size, np.diff(self.start))


def gathered(device: Device, rows: Any, order: np.ndarray, width: int, dtype: Any) -> Any:
    """Rows in an order that fills tiles (len(order), width); further columns are undefined."""
    out = device.empty((len(order), width), dtype)
    device.run(kernels.gather, len(order) // LANES, THREADS, rows, device.upload(order), out)
    return out
