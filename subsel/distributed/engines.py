"""Engines run tasks: on threads of this process, or on the workers of a Dask client."""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import uuid4

from subsel.distributed.chunks import Chunk
from subsel.kernels import cpu
from subsel.pacing import obey


class Task(NamedTuple):
    """A call of `function` with `arguments` and with the results of the tasks in `below`."""

    place: tuple[int, ...]
    function: Callable
    arguments: tuple
    below: tuple[tuple[int, ...], ...] = ()
    wanted: bool = True  # here, not by another task
    alone: bool = False  # no other task is left beside it


class Threads:
    """Tasks on threads of this process. A task that is `alone` uses all of Numba's threads."""

    elsewhere = False  # tasks see this process's memory

    def __init__(self, threads: int) -> None:
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads, "greedi", self._begin)

    def _begin(self) -> None:
        cpu.single_thread()
        obey(self._stop)

    def __enter__(self) -> None: ...

    def __exit__(self, failed: Any, *_: Any) -> None:
        if failed:
            self._stop.set()
        self._pool.shutdown(wait=not failed, cancel_futures=True)

    def slots(self) -> int:
        """The number of tasks that may run at a time."""
        return self._pool._max_workers

    def shared(self, value: Any) -> Any:
        """Something that several tasks take as an argument."""
        return value

    def start(self, task: Task, below: list[Future]) -> Future:
        """Begin a task. The tasks whose results it takes must be done."""
        arguments = [*task.arguments, *(future.result() for future in below)]
        if not task.alone:
            return self._pool.submit(task.function, *arguments)
        future: Future = Future()
        future.set_result(task.function(*arguments))
        return future

    def finished(self, running: list[Future]) -> list[Future]:
        """Those that are done, at least one; raises if one failed."""
        done = [future for future in running if future.done()]
        done = done or list(wait(running, return_when=FIRST_COMPLETED).done)
        for future in done:
            future.result()
        return done


class Cluster:
    """Tasks on the workers of a Dask client, each on one thread."""

    elsewhere = True

    def __init__(self, client: Any) -> None:
        self._client = client
        self._name = uuid4().hex[:8]
        self._started: set[Any] = set()
        self._shared = 0

    def __enter__(self) -> None: ...

    def __exit__(self, failed: Any, *_: Any) -> None:
        started, self._started = list(self._started), set()
        if failed and self._client.status == "running":
            self._client.cancel(started)
        elif failed and issubclass(failed, Exception):
            raise RuntimeError("the Dask client was closed while rows were being selected")

    def slots(self) -> int:
        """Twice the number of threads, so that a thread that finishes a task can begin the next."""
        return 2 * max(1, sum(self._client.nthreads().values()))

    def shared(self, value: Any) -> Any:
        """A future of it: it is sent once, and workers then fetch it from one another."""
        self._shared += 1
        return self._client.submit(_same, value, key=f"greedi-share-{self._name}-{self._shared}")

    def start(self, task: Task, below: list[Any]) -> Any:
        """Begin a task. Dask begins it again if its worker is lost."""
        step = task.function.__name__
        place = "-".join(map(str, task.place))
        arguments = [_Packed.of(a) if isinstance(a, list) else a for a in task.arguments]
        future = self._client.submit(
            _on_one_thread, task.function, *arguments, *below,
            key=f"greedi-{step}-{self._name}-{place}", retries=2,
        )  # fmt: skip
        self._started.add(future)
        return future

    def finished(self, running: list[Any]) -> list[Any]:
        """Those that are done, at least one; raises if one failed."""
        import distributed

        done = list(distributed.wait(running, return_when="FIRST_COMPLETED").done)
        self._started.difference_update(done)
        for future in done:
            if future.status == "error":
                future.result()
        return done


class _Packed(NamedTuple):
    """Chunks as bytes until they are read.

    As long as a task's result is needed, Dask's workers keep the arguments of the task. The graphs
    of its chunks would take twenty times as much memory unpacked.
    """

    data: bytes

    @classmethod
    def of(cls, chunks: list[Chunk]) -> "_Packed":
        from distributed.protocol import pickle

        return cls(pickle.dumps(chunks))

    def chunks(self) -> list[Chunk]:
        from distributed.protocol import pickle

        return pickle.loads(self.data)


def _same(value: Any) -> Any:
    return value


def _on_one_thread(function: Callable, *arguments: Any) -> Any:
    cpu.single_thread()
    return function(*(a.chunks() if isinstance(a, _Packed) else a for a in arguments))


def choose(backend: str) -> Threads | Cluster:
    """The active Dask client's workers; without a client, threads, of which one uses the GPU."""
    distributed: Any = sys.modules.get("distributed")
    client = None
    if distributed is not None:
        with suppress(ValueError):
            client = distributed.Client.current()
    if client is None:
        if backend == "cpu":
            return Threads(cpu.threads())
        from subsel.sources import require_gpu

        require_gpu()
        return Threads(1)
    if client.asynchronous or client.status != "running":
        raise ValueError(
            f"the active Dask client is {'asynchronous' if client.asynchronous else client.status}"
            "; a running, synchronous one is needed"
        )
    return Cluster(client)
