"""Selection on an NVIDIA GPU, in one call of at most eight minutes: a table last, all in JSON.

    python -m benchmarks.gpu                                       # into runs/gpu.json
    NUMBA_ENABLE_CUDASIM=1 python -m benchmarks.gpu --small        # anywhere: only that it works
    python -m benchmarks.gpu --ptx                                 # compile for an H100, no GPU

Compiles; compares small selections with the CPU's, which must be the same; measures how fast the
GPU copies and how many fused multiply-adds it makes in float32; then times the workloads, answers
checked, inputs on the GPU before and results on the host after. Beside them stand greedy in plain
torch and, where it is installed, triton-submodular.

Floors are counted: each unordered pair's distance once (a subtraction and a multiply-add for each
feature) at the rate of multiply-adds, or the input read once at that of copies, whichever is more.
"Of the rate": instructions for the similarities that were looked at, 2 d + 20 each, against it.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numba import config, cuda, float32

import subsel
from benchmarks.selection.inputs import gradient_like
from subsel.files import written_whole
from subsel.kernels import cuda as kernels
from subsel.kernels.cuda import coverage
from subsel.objectives.saturated_coverage import Saturated
from subsel.sources import require_gpu

LIMIT = 8 * 60
OTHER = 20
"""Instructions for a similarity beside those for its features: root, rounding, clamp, sum."""

CHAINS = 16


@dataclass(frozen=True)
class Workload:
    """`classes` of `rows` of `d` features each, of which `count` are selected in all."""

    name: str
    classes: int
    rows: int
    d: int
    count: int
    target: float | None = None
    rivals: bool = False

    @property
    def n(self):
        return self.classes * self.rows

    def smaller(self, rows):
        """With so many rows in all."""
        classes = min(self.classes, 3)
        rows //= classes
        count = classes * max(2, min(40, int(rows * self.count / self.n)))
        return Workload(self.name, classes, rows, self.d, count, None, self.rivals)

    def labels(self):
        return None if self.classes == 1 else np.repeat(np.arange(self.classes), self.rows)

    def features(self, torch):
        """Like last-layer gradients: nearly all tiny, a few large. Made where they are used."""
        if torch is None:
            hidden = np.repeat(np.arange(self.classes), self.rows) % self.d
            return gradient_like(hidden, self.d, np.random.default_rng(0))
        torch.manual_seed(0)
        parts = []
        for start in range(0, self.n, 2**18):
            rows = torch.arange(start, min(start + 2**18, self.n), device="cuda")
            label = rows // self.rows % self.d
            z = torch.randn(len(rows), self.d, device="cuda")
            z.scatter_add_(1, label[:, None], 2 + 8 * torch.rand(len(rows), 1, device="cuda"))
            z = torch.softmax(z, dim=1)
            parts.append(z.scatter_add_(1, label[:, None], torch.full_like(z[:, :1], -1.0)))
        return torch.cat(parts)

    def floor(self, copy_rate, fma_rate):
        """Seconds that no exact selection can be under."""
        operations = self.classes * self.rows**2 * self.d  # half the pairs, twice d
        return max(operations / fma_rate, self.n * self.d * 4 / copy_rate)


WORKLOADS = [
    Workload("EPIC's step: 10 × 5000 × 10, f = 0.1", 10, 5000, 10, 5000, 0.060, rivals=True),
    Workload("EPIC's step: 10 × 5000 × 10, f = 0.3", 10, 5000, 10, 15_000),
    Workload("60 000 × 10, k = 600", 1, 60_000, 10, 600, 0.3, rivals=True),
    Workload("60 000 × 10, k = 6000", 1, 60_000, 10, 6000),
    Workload("1000 classes × 1300 × 1000, f = 0.1", 1000, 1300, 1000, 130_000, 3.0),
    Workload("1000 classes × 1300 × 64, f = 0.1", 1000, 1300, 64, 130_000),
    Workload("1 000 000 × 10, k = 1000", 1, 1_000_000, 10, 1000, 8.0),
    Workload("1 000 000 × 64, k = 1000", 1, 1_000_000, 64, 1000),
]


@dataclass
class Record:
    """What was measured of a workload, in seconds."""

    name: str
    seconds: float | None = None
    times: list[float] = field(default_factory=list)
    target: float | None = None
    floor: float | None = None
    pairs_of_all: float | None = None
    rate: float | None = None
    path: str = ""
    rivals: dict[str, float | str] = field(default_factory=dict)


def timed(call: Callable, repeats: int = 3, limit: float = 60.0) -> tuple[list[float], object]:
    """Times of a call after a first one, as many as the limit lets in, and what it gave last."""
    times = []
    began = time.perf_counter()
    result = call()
    while len(times) < repeats and (not times or time.perf_counter() - began < limit):
        cuda.synchronize()
        start = time.perf_counter()
        result = call()
        cuda.synchronize()
        times.append(time.perf_counter() - start)
    return times, result


def copy_rate(small: bool) -> float:
    """Bytes a second, read and written, from memory to memory of the GPU."""
    source = cuda.device_array(2**10 if small else 2**28, np.float32)
    target = cuda.device_array_like(source)
    times, _ = timed(lambda: target.copy_to_device(source))
    return 2 * source.nbytes / min(times)


@cuda.jit
def multiply_add(rounds, factor, out):
    """Independent chains of fused multiply-adds, enough of them to hide how long each takes."""
    sums = cuda.local.array(CHAINS, float32)
    for a in range(CHAINS):
        sums[a] = out[0] + a
    for _ in range(rounds):
        for a in range(CHAINS):
            sums[a] = cuda.fma(sums[a], factor, sums[a])
    total = sums[0]
    for a in range(1, CHAINS):
        total += sums[a]
    out[cuda.grid(1) % out.size] = total


def fma_rate(small: bool) -> float:
    """Fused multiply-adds a second in float32; other instructions are made at the same rate."""
    blocks, threads, rounds = (1, 4, 2) if small else (132 * 16, 256, 200_000)
    out = cuda.to_device(np.zeros(32, np.float32))
    times, _ = timed(lambda: multiply_add[blocks, threads](rounds, np.float32(0.5), out))
    return blocks * threads * rounds * CHAINS / min(times)


def select(X, workload):
    return subsel.select(
        X, workload.count if workload.classes == 1 else workload.count / workload.n,
        labels=workload.labels(),
    )  # fmt: skip


def check(chosen, workload):
    """Cheap truths of any greedy selection."""
    assert len(set(chosen.indices.tolist())) == len(chosen.indices)
    assert chosen.sizes.sum() == workload.n
    assert (np.diff(chosen.gains) <= 0).all()


def compare(workload, torch):
    """The CPU selects the same from fewer rows."""
    X = workload.features(torch)
    host = X if torch is None else X.cpu().numpy()
    ours, wanted = select(on_gpu(X, torch), workload), select(host, workload)
    for name in ("indices", "gains", "assignment", "sizes"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(wanted, name))


def on_gpu(X, torch):
    return X if torch is not None else cuda.to_device(X)


def torch_greedy(X, count, torch):
    """Greedy k-medoids as one writes it in torch, distances in memory if they fit."""
    n = len(X)
    fits = n * n * 4 < torch.cuda.mem_get_info()[0] // 2
    D = torch.cdist(X, X, compute_mode="donot_use_mm_for_euclid_dist") if fits else None
    best = torch.full((n,), 2 * float(X.norm(dim=1).max()), device=X.device)
    gains = torch.empty(n, device=X.device)
    chosen = torch.empty(count, dtype=torch.int64, device=X.device)
    for step in range(count):
        for start in range(0, n, 4096):
            part = slice(start, min(start + 4096, n))
            near = D[part] if fits else torch.cdist(X[part], X)
            gains[part] = (best - near).clamp_(min=0).sum(dim=1)
        gains[chosen[:step]] = -1
        j = gains.argmax()
        chosen[step] = j
        distance = torch.cdist(X[j][None], X, compute_mode="donot_use_mm_for_euclid_dist")[0]
        best = torch.minimum(best, distance)
    return chosen.cpu()


def triton_submodular(X, count):
    from triton_submodular.functions import FacilityLocation

    return FacilityLocation(X).maximize(count, "LazyGreedyTriton")


def rivals(X, workload, torch):
    """Seconds of greedy in plain torch, and of triton-submodular where it is installed."""
    parts = X.split(workload.rows)
    count = workload.count // workload.classes
    calls = {
        "torch": lambda: [torch_greedy(part, count, torch) for part in parts],
        "triton-submodular": lambda: [triton_submodular(part, count) for part in parts],
    }
    found = {}
    for name, call in calls.items():
        try:
            found[name] = statistics.median(timed(call, repeats=1)[0])
        except ImportError:
            found[name] = "not installed"
        except Exception as error:  # somebody else's, and ours is to be measured all the same
            found[name] = f"failed: {type(error).__name__}: {error}"[:200]
    return found


def measure(workload, torch, copies, multiply_adds):
    X = on_gpu(workload.features(torch), torch)
    times, chosen = timed(lambda: select(X, workload))
    check(chosen, workload)
    seconds = statistics.median(times)
    pairs = chosen.n_evaluations * workload.n
    record = Record(
        workload.name, seconds, times, workload.target, workload.floor(copies, multiply_adds),
        pairs / (workload.classes * workload.rows**2),
        pairs * (2 * workload.d + OTHER) / multiply_adds / seconds, chosen.path,
    )  # fmt: skip
    if workload.rivals and torch is not None:
        record.rivals = rivals(X, workload, torch)
    return record


def compile_all(cc=(9, 0)) -> list[dict]:
    """Every kernel for a GPU that need not be there: registers, bytes of stack and of spills.

    Needs the compiler of CUDA 13, `pip install nvidia-nvvm nvidia-cuda-nvrtc`, and ptxas.
    """
    from numba import typeof

    assembler = shutil.which("ptxas") or "/usr/local/cuda/bin/ptxas"
    lines = []
    for number in (np.float32, np.float64):
        for kernel, arguments in examples(number):
            name = kernel.py_func.__name__
            types = tuple(typeof(argument) for argument in arguments)
            ptx, _ = cuda.compile_ptx(kernel.py_func, types, cc=cc)
            # An assembler somewhat older than the compiler reads it all the same.
            ptx = re.sub(r"\.version [\d.]+", ".version 9.0", ptx)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "kernel.ptx"
                path.write_text(ptx)
                said = subprocess.run(
                    [assembler, f"-arch=sm_{cc[0]}{cc[1]}", "-v", path, "-o", f"{path}.cubin"],
                    capture_output=True, text=True, check=True,
                ).stderr  # fmt: skip

            def figure(pattern, said=said):
                found = re.search(pattern, said)
                return int(found[1]) if found else 0

            lines.append({
                "kernel": name, "dtype": number.__name__,
                "registers": figure(r"Used (\d+) registers"),
                "stack": figure(r"(\d+) bytes stack frame"),
                "spills": figure(r"(\d+) bytes spill stores"),
                "shared": figure(r"(\d+) bytes smem"),
            })  # fmt: skip
    return lines


def examples(number):
    """Each kernel with arguments of the types that it is called with."""

    def floats(*shape):
        return np.zeros(shape, number)

    def doubles(*shape):
        return np.zeros(shape)

    def longs(*shape):
        return np.zeros(shape, np.int64)

    ints = np.zeros(1, np.int32)
    slots = kernels.Slots(longs(1), longs(1), ints)
    store = kernels.Features(
        slots, slots, floats(1, 1), floats(1, 1), floats(1, 1), floats(1, 1), floats(1, 4), 0,
        number(0),
    )  # fmt: skip
    matrices = kernels.Matrices(slots, slots, floats(1), longs(1), doubles(1))
    search = kernels.Search(
        doubles(1), doubles(1), longs(1), ints, doubles(1), np.zeros(1, bool), longs(1),
        doubles(1), ints, ints, longs(1), longs(1), longs(1), longs(1),
    )  # fmt: skip
    return [
        (kernels.pick, (slots, search, longs(1, 1), doubles(1, 1), longs(1))),
        (kernels.choose, (search, 0)),
        (kernels.sum_won, (search, doubles(1), 0)),
        (kernels.cover_features, (store, search)),
        (kernels.cover_matrices, (matrices, search)),
        (kernels.update_features, (store, search, 0)),
        (kernels.update_matrices, (matrices, search, 0)),
        (kernels.fill_matrices, (store, matrices)),
        (kernels.gather, (floats(1, 1), longs(1), floats(1, 1))),
        (kernels.gather_columns, (floats(1, 1), longs(1), floats(1))),
        (kernels.check, (floats(1, 1), longs(1), 0.0, longs(1), doubles(1))),
        (kernels.find_boxes, (floats(1, 1),) * 3),
        (kernels.find_ranges, (longs(1), *(floats(1, 1),) * 4)),
        (kernels.find_radius, (floats(1, 1), ints, doubles(1, 1), doubles(1), doubles(1))),
        (kernels.divide, (floats(1, 1), ints, longs(1))),
        (kernels.scale_to_unit, (floats(1, 1),)),
        *of_rules(store, True),
        *of_rules(matrices, False),
    ]


def of_rules(store, from_features):
    """The kernels of a coverage objective; any rule will do."""
    rule, level, scale = Saturated(np.zeros(1), 1.0), np.zeros(1), (1.0, 0.0, 1.0, 1.0)
    evaluate, cover = coverage.kernels(Saturated, from_features)
    return [
        (evaluate, (store, rule, level, level, scale, np.zeros(1, np.int64), level)),
        (cover, (store, rule, level, level, scale, 0, level)),
        (coverage.row_summing(from_features), (store, 1.0, 1.0, level)),
    ]


def table(records):
    print("| workload | seconds | target | floor | pairs / n² | of the rate | torch | triton |")
    print("|---|---|---|---|---|---|---|---|")
    for r in records:
        if r.seconds is None:
            print(f"| {r.name} | not timed: out of time | | | | | | |")
            continue
        other = [r.rivals.get(name, "–") for name in ("torch", "triton-submodular")]
        other = [f"{o:.3g} ({o / r.seconds:.0f} ×)" if isinstance(o, float) else o for o in other]
        target = "–" if r.target is None else f"{r.target:g}"
        print(
            f"| {r.name} | {r.seconds:.4g} | {target} | {r.floor:.3g} | {r.pairs_of_all:.2f} "
            f"| {r.rate:.0%} | {other[0]} | {other[1]} |"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="toy sizes: only that it works")
    parser.add_argument("--ptx", action="store_true", help="only compile, without a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"))
    args = parser.parse_args()
    if args.ptx:
        print("| kernel | type | registers | stack | spills | shared |\n|---|---|---|---|---|---|")
        for line in compile_all():
            print("| " + " | ".join(str(value) for value in line.values()) + " |")
        return
    began = time.perf_counter()
    require_gpu()
    torch = None
    if config.ENABLE_CUDASIM:
        from tests import simulator

        simulator.install()
    else:
        import torch
    name = "Numba's simulator" if torch is None else torch.cuda.get_device_name()
    print(f"{name}; comparing with the CPU ...", flush=True)
    some = WORKLOADS[::3] if args.small else WORKLOADS
    for workload in some:
        compare(workload.smaller(40 if args.small else 21_000), torch)
    copies, multiply_adds = copy_rate(args.small), fma_rate(args.small)
    print(
        f"the same; {time.perf_counter() - began:.0f} s with compiling. "
        f"Copies {copies / 1e12:.2f} TB/s, multiply-adds {multiply_adds / 1e12:.1f} T/s",
        flush=True,
    )
    records = []
    for workload in some:
        if args.small:
            workload = workload.smaller(40)
        if time.perf_counter() - began > 0.75 * LIMIT:
            records.append(Record(workload.name))
            continue
        records.append(measure(workload, torch, copies, multiply_adds))
        print(f"{time.perf_counter() - began:4.0f} s  {workload.name}", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(args.out) as part:
        part.write_text(json.dumps({
            "gpu": name, "copies": copies, "multiply_adds": multiply_adds,
            "workloads": [asdict(record) for record in records],
        }, indent=1))  # fmt: skip
    print(f"\n{name}, {time.strftime('%Y-%m-%d')}; {args.out}\n")
    table(records)


if __name__ == "__main__":
    main()
