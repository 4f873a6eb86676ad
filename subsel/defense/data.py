"""Labelled examples from tensors, arrays, datasets or loaders."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from subsel.defense.forms import Split, moved, row_of, same, split, tensors_of
from subsel.defense.parallel import ALONE, Part, Ranks, digest
from subsel.tables import is_table
from subsel.validation import as_host_array, check_count

__all__ = [
    "Examples", "as_tensor", "as_tensors", "batch_sizes", "batches", "check_labels", "named",
]  # fmt: skip

# Examples per forward pass. Larger batches do not fit into the processor's cache: with 512 and
# 1024, `small_cnn` took 1.4 to 1.8 times as long on a CPU.
BATCH = 256


class Examples:
    """Labelled examples, addressed by index: tensors on a device, or a dataset read in batches.

    Parameters
    ----------
    source : map-style dataset of (input, label), or a pair of tensors, arrays or tables
    device : torch.device
    workers : int
        The number of processes that read a dataset.
    how : callable, optional
        A function from a batch of the dataset to (inputs, labels), as for `split`.
    collate : callable, optional
        Makes a batch of a list of examples, as a DataLoader's ``collate_fn``.
    name : str
        What an error calls the source.
    """

    def __init__(
        self,
        source: Any,
        device: torch.device,
        workers: int = 0,
        how: Split | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        name: str = "data",
    ) -> None:
        if isinstance(source, DataLoader):
            raise TypeError("give the dataset, not a DataLoader: its order would be lost")
        tensors = as_tensors(source, name)
        self.tensors = None if tensors is None else tuple(part.to(device) for part in tensors)
        self.dataset, self.device, self.workers = source, device, workers
        self.how, self.collate = how, collate
        self.n = _checked_length(source, name) if tensors is None else len(tensors[0])

    def __len__(self) -> int:
        return self.n

    def subset(self, indices: np.ndarray | None = None) -> Any:
        """Some examples (by default all) in a form that `batches` takes."""
        if self.tensors is None:
            source = self.dataset if indices is None else Subset(self.dataset, indices.tolist())
            if not self.workers and self.collate is None:
                return source
            return DataLoader(
                source, BATCH, num_workers=self.workers, collate_fn=self.collate or default_collate
            )
        if indices is None:
            return self.tensors
        rows = torch.from_numpy(indices).to(self.device)
        return tuple(part[rows] for part in self.tensors)

    def batches(
        self, indices: np.ndarray | None = None, ranks: Ranks = ALONE, *, check: bool = True
    ) -> Iterator[tuple[int, Any, Tensor]]:
        """Yield batches in order, not on the device: place of the first example, inputs, labels.

        Without `check` the examples may come back different when they are read again.
        """
        return batches(self.subset(indices), ranks=ranks, how=self.how, check=check)

    def mark(self) -> str:
        """A hash of eight examples from all parts of the data, and of labels that are in memory."""
        some = np.unique(np.linspace(0, len(self) - 1, 8, dtype=int))
        _, x, y = next(self.batches(some))
        return digest(*tensors_of(x), y, y if self.tensors is None else self.tensors[1])

    def shuffled(
        self,
        indices: np.ndarray,
        batch_size: int,
        generator: torch.Generator,
        ranks: Ranks = ALONE,
    ) -> Iterator[tuple[Tensor, Any, Tensor, Part]]:
        """Yield index, input and label of these examples in random order, in batches on the device.

        Each batch is only this rank's part, with the `Part` that describes it. A last batch of a
        single example joins the one before, because BatchNorm needs two.
        """
        order = torch.from_numpy(indices)[torch.randperm(len(indices), generator=generator)]
        whole = order.split(batch_sizes(len(order), batch_size))
        parts = [ranks.part(len(batch)) for batch in whole]
        places = [batch[part.rows] for batch, part in zip(whole, parts, strict=True)]
        if self.tensors is not None:
            x, y = self.tensors
            for rows, part in zip(places, parts, strict=True):
                rows = rows.to(self.device)
                yield rows, x[rows], y[rows], part
            return
        loader: DataLoader = DataLoader(
            self.dataset,
            batch_sampler=[rows.tolist() for rows in places],
            num_workers=self.workers,
            collate_fn=self.collate,
            # A separate generator, so that tensors and datasets leave `generator` in the same
            # state.
            generator=torch.Generator().manual_seed(generator.initial_seed()),
        )
        for rows, batch, part in zip(places, loader, parts, strict=True):
            x, y = split(batch, self.how)
            yield rows, moved(x, self.device), y.to(self.device), part


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Sizes of the batches of n examples. Too few for a last batch join the batch before it.

    Too few are less than an eighth of a batch, and always a single one. BatchNorm cannot take one
    example, and a tenth of its running statistics would come from so few: a net after a last batch
    of two can be wrong on half of the data, and EPIC would use the gradients of that net.
    """
    least = max(2, batch_size // 8)
    starts = [0, *range(batch_size, n - least + 1, batch_size), n]
    return [stop - start for start, stop in pairwise(starts)]


def batches(
    data: Any,
    batch_size: int | None = None,
    ranks: Ranks = ALONE,
    how: Split | None = None,
    *,
    check: bool = True,
) -> Iterator[tuple[int, Any, Tensor]]:
    """Yield (place of the first example, inputs, labels) of each batch, in the order of the data.

    `how` is passed to `split` if the data are not a pair of tensors. Each of several ranks gets
    consecutive whole batches, the same ones that a single process would make. Without `check`,
    examples may differ when they are read a second time.
    """
    tensors = as_tensors(data)
    if tensors is not None:
        size = check_count(batch_size or BATCH, "batch_size", 1)
        starts = range(0, len(tensors[0]), size)
        mine = ranks.block(len(starts))
        parts = (part.split(size)[mine] for part in tensors)
        yield from zip(starts[mine], *parts, strict=True)
        return
    dataset, collate = data, default_collate
    loading: dict[str, Any] = {}
    if isinstance(data, DataLoader):
        dataset, batch_size = data.dataset, batch_size or data.batch_size
        loading = {
            "num_workers": data.num_workers,
            "worker_init_fn": data.worker_init_fn,
            "multiprocessing_context": data.multiprocessing_context,
        }
        if data.batch_sampler is not None:  # otherwise its collate_fn takes single examples
            collate = data.collate_fn
    size = check_count(batch_size or BATCH, "batch_size", 1)
    n, first = _checked_length(dataset), 0
    if ranks.size > 1:
        rows = range(0, n, size)[ranks.block(-(-n // size))]
        if not rows:
            return
        first, n = rows.start, min(rows.stop, n) - rows.start
        dataset = Subset(dataset, range(first, first + n))
    # Without its own generator, a DataLoader would draw from the caller's global one.
    loader: DataLoader = DataLoader(
        dataset,
        batch_size=size,
        collate_fn=collate,
        generator=torch.Generator(),
        **loading,
    )
    probes = np.unique(np.linspace(0, n - 1, 8, dtype=int)).tolist()
    seen = 0
    first_read: dict[int, tuple[list[Tensor], Tensor]] = {}
    for batch in loader:
        x, y = split(batch, how)
        first_read |= {
            i: (row_of(x, i - seen), y[i - seen]) for i in probes if seen <= i < seen + len(y)
        }
        yield first + seen, x, y
        seen += len(y)
    if seen != n:
        raise ValueError(f"data has length {n} but gave {seen} examples")
    for i, (row, y) in first_read.items() if check else ():
        again, label = split(collate([dataset[i]]), how)
        if label[0] != y or not same(row_of(again, 0), row):
            raise ValueError(
                f"data[{first + i}] came back different when it was read again: the dataset "
                "shuffles or augments; pass one that gives the same examples in the same order "
                "each time"
            )


def as_tensors(data: Any, name: str = "data") -> tuple[Tensor, Tensor] | None:
    """Inputs and labels, if `data` is a pair of tensors, arrays or tables."""
    if isinstance(data, TensorDataset):
        data = data.tensors
    if not isinstance(data, tuple | list) or not data:
        return None
    if isinstance(data, tuple) and all(isinstance(part, list) for part in data):
        raise TypeError(
            f"{name} must be a pair of arrays, not of lists: pass each as np.array(...)"
        )
    if not all(_is_array(part) for part in data):
        return None
    if len(data) != 2:
        raise ValueError(f"{name} must be a pair (inputs, labels), got {len(data)} tensors")
    inputs, labels = data
    if not isinstance(labels, Tensor):
        labels = as_host_array(labels, "labels")
        if labels.dtype.kind in "OSUM":
            raise TypeError(
                f"labels must be integers, got {labels.dtype}: give the number of each class, "
                "from 0, such as np.unique(labels, return_inverse=True)[1]"
            )
    x, y = split([as_tensor(inputs, "inputs"), as_tensor(labels, "labels")])
    if len(x) == 0:
        raise ValueError(f"{name} is empty: at least one example is wanted")
    return x, y


def _is_array(part: Any) -> bool:
    known = isinstance(part, Tensor | np.ndarray) or hasattr(part, "tocsr")
    return known or is_table(part)


def as_tensor(part: Any, name: str) -> Tensor:
    """A tensor as it is; an array or a table in the same memory, if that is writable."""
    if isinstance(part, Tensor):
        return part
    array = as_host_array(part, name)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def check_labels(
    labels: Tensor, n_classes: int, places: np.ndarray | None = None, name: str = "labels"
) -> None:
    """Refuse labels outside 0..n_classes-1. `places`: their positions in the data (0, 1, ...)."""
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        found = torch.nonzero(outside).flatten().cpu().numpy()
        where = (found if places is None else places[found]).tolist()
        raise ValueError(
            f"{name} must lie in 0..{n_classes - 1}, but they do not for {named(where)}; the first "
            f"is {labels[outside][0].item()}"
        )


def _checked_length(dataset: Any, name: str = "data") -> int:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"{name} must be a map-style dataset (__len__ and __getitem__), "
            f"got {type(dataset).__name__}: EPIC has to know which example is which"
        )
    try:
        n = len(dataset)
    except TypeError:
        raise TypeError(f"{name} must have a length; {type(dataset).__name__} has none") from None
    if n == 0:
        raise ValueError(f"{name} is empty: it must have at least one example")
    return n


def named(where: list[int], what: str = "example") -> str:
    """How many examples (or other things), and the first of them, for an error message."""
    some = ", ".join(map(str, where[:10])) + (", ..." if len(where) > 10 else "")
    return f"{len(where)} {what}{'s' if len(where) > 1 else ''} ({some})"
