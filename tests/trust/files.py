"""Reads files that nobody should trust, in a child process, and says what went wrong.

``python -m tests.trust.files --minutes 60`` runs the corpus and then mutations of it for that long;
``--first N --cases 1`` repeats the mutation number N, and ``--keep FOLDER`` keeps the files of what
failed. The tests in test_files.py run the same for seconds.

A reader may give a correct result, or raise ValueError, TypeError or FileNotFoundError with one
plain sentence. Everything else is a failure: another error, a crash of the process, more than
MEMORY beyond what the process had, more than SECONDS of its time, two readings that differ, a
reading that does not end (and whether Ctrl-C would end it).
"""

import argparse
import gzip
import hashlib
import json
import os
import pickletools
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tests.trust.attacks import attacks
from tests.trust.corpus import CIFAR_BATCH_SIZE, Case, valid

__all__ = ["MEMORY", "Outcome", "examine"]

MEMORY = 256 << 20
SECONDS = 2.0  # of the processor, so that a busy machine fails nothing
PATIENCE = 30.0  # by the clock, before a reading is taken for endless
ROOT = Path(__file__).resolve().parents[2]


# In the child


def read(reader: str, folder: Path):
    from subsel.defense import datasets, poisons

    datasets.CIFAR_BATCH_SIZE = CIFAR_BATCH_SIZE
    if reader == "poisons":
        return poisons.read_poisons(folder)
    if reader == "metapoison":
        return poisons.read_poisons(folder / "meta.pickle")
    if reader == "one file":
        return poisons.read_poisons(folder / "poisons.pickle")
    if reader == "setups":
        return poisons.read_setups(folder / "setups.pickle")
    if reader in PLANTED:
        return PLANTED[reader](folder)
    return datasets.load(reader, folder)


def _deaf(folder):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(1000)


def _busy(folder):
    end = time.process_time() + 1.1 * SECONDS
    while time.process_time() < end:
        pass


def _other_error(folder):
    raise KeyError("x")


def _not_plain(folder):
    raise ValueError(f"{folder}\n  at line 3")


def _swallowed(folder):
    try:
        np.ones(2 * MEMORY, np.uint8)
    except MemoryError:
        raise ValueError(f"{folder} needs more memory than this machine has") from None


# Readers with faults, so that the harness can be seen to find them.
PLANTED = {
    "planted crash": lambda folder: os.abort(),
    "planted sleep": lambda folder: time.sleep(1000),
    "planted deafness": _deaf,
    "planted work": _busy,
    "planted memory": lambda folder: np.ones(2 * MEMORY, np.uint8),
    "planted memory, swallowed": _swallowed,
    "planted error": _other_error,
    "planted message": _not_plain,
    "planted chance": lambda folder: os.urandom(8),
    "planted nonsense": lambda folder: None,
}


def digest(value) -> str:
    """Of all bits of a result."""
    sha = hashlib.sha256()

    def feed(part):
        if is_dataclass(part):
            for f in fields(part):
                feed(getattr(part, f.name))
        elif isinstance(part, list | tuple):
            for item in part:
                feed(item)
        elif isinstance(part, np.ndarray):
            sha.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        else:
            sha.update(repr(part).encode())

    feed(value)
    return sha.hexdigest()


def nonsense(result) -> str | None:
    """What is wrong with a result, whatever the files were."""
    from subsel.defense import datasets, poisons

    if isinstance(result, list) and result:
        fine = all(isinstance(setup, poisons.BenchmarkSetup) for setup in result)
        return None if fine else "a list of something else"
    if isinstance(result, poisons.PoisonedSet):
        pairs = [(result.images, result.labels), (result.targets, result.target_labels)]
        if result.indices.dtype != np.int64 or len(result.indices) != len(result.images):
            return "indices"
    elif isinstance(result, datasets.ImageData):
        pairs = [
            (result.train_images, result.train_labels),
            (result.test_images, result.test_labels),
        ]
        if not (np.isfinite(result.mean).all() and np.isfinite(result.std).all()):
            return "moments"
    elif isinstance(result, bytes):
        return None  # planted
    else:
        return f"a {type(result).__name__}"
    for images, labels in pairs:
        if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
            return "images"
        if labels.dtype != np.int64 or labels.shape != images.shape[:1] or labels.min() < 0:
            return "labels"
    return None if pairs[0][0].shape[1:] == pairs[1][0].shape[1:] else "sizes that differ"


def differs(result, expected) -> str | None:
    for name, value in expected.items():
        if not np.array_equal(getattr(result, name), value):
            return name
    return None


def tried(case: Case, folder: Path) -> tuple[str, str]:
    """What kind of outcome a case has, and what there is to say of it."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    start = time.process_time()
    try:
        result = read(case.reader, folder)
    except KeyboardInterrupt:
        return "failure: endless", "Ctrl-C ended it"
    except (ValueError, TypeError, FileNotFoundError) as error:
        took, text = time.process_time() - start, str(error)
        if took > SECONDS:
            return "failure: slow", f"{took:.1f} s"
        if "memory" in text:
            return "failure: memory", text
        if "\n" in text or len(text) > 600 or str(folder) not in text:
            return "failure: no plain sentence", text
        return "refused", text.replace(str(folder), "...")
    except BaseException as error:
        return "failure: " + type(error).__name__, str(error)
    took = time.process_time() - start
    if took > SECONDS:
        return "failure: slow", f"{took:.1f} s"
    if what := nonsense(result):
        return "failure: nonsense", what
    if what := differs(result, case.expected):
        return "failure: another result", what
    if digest(result) != digest(read(case.reader, folder)):
        return "failure: two readings differ", ""
    return "read", digest(result)


@contextmanager
def limited_memory():
    import resource

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def ordered(order: dict) -> Case:
    if "planted" in order:
        return Case(order["planted"], {"x": b""})
    if "corpus" in order:
        return corpus()[order["corpus"]]
    return mutated(**order)


@cache
def corpus() -> dict[str, Case]:
    return valid() | attacks()


def child() -> None:
    """Answer each line {"corpus": name} or {"seed": s, "number": n} by one line.

    A planted fault is {"planted": name}.
    """
    import faulthandler
    import resource

    from subsel.defense import datasets, poisons  # noqa: F401

    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        tried(valid()["tiny"], folder)  # imports Pillow's formats, before memory is measured
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        answers.write("ready\n")
        while line := sys.stdin.readline():
            order = json.loads(line)
            case = ordered(order)
            with limited_memory():
                outcome = tried(case, folder)
            answers.write(json.dumps(outcome) + "\n")


# Mutations


def mutated(seed: int, number: int) -> Case:
    """The mutation of this number: a case of the corpus with one to four changes to a file."""
    rng = random.Random(f"{seed}/{number}")
    everything, small = donors()
    case = rng.choice([*valid().values()] if rng.random() < 0.7 else small)
    files = dict(case.files)
    name = rng.choice(sorted(files))
    packed = name.endswith(".gz") and files[name][:2] == b"\x1f\x8b" and rng.random() < 0.8
    try:
        content = gzip.decompress(files[name]) if packed else files[name]
    except (OSError, EOFError):
        content, packed = files[name], False
    for _ in range(rng.choice([1, 1, 2, 4])):
        other = rng.choice(everything).files
        donor = other[rng.choice(sorted(other))][: 1 << 16]
        content = rng.choice(MUTATIONS)(rng, content, donor)[: 1 << 21]
    files[name] = gzip.compress(content, 1) if packed else content
    return Case(case.reader, files)


@cache
def donors() -> tuple[list[Case], list[Case]]:
    """All cases, and those whose files are small enough to be mutated quickly."""
    everything = [*corpus().values()]
    return everything, [c for c in everything if max(map(len, c.files.values())) < 1 << 20]


def flipped(rng, content, donor):
    out = bytearray(content)
    for _ in range(rng.choice([1, 2, 8, 64]) if out else 0):
        out[place(rng, out)] ^= 1 << rng.randrange(8)
    return bytes(out)


def replaced(rng, content, donor):
    out = bytearray(content)
    for _ in range(rng.choice([1, 2, 8]) if out else 0):
        out[place(rng, out)] = rng.randrange(256)
    return bytes(out)


def cut(rng, content, donor):
    return content[: place(rng, content)] if content else content


def removed(rng, content, donor):
    at = place(rng, content)
    return content[:at] + content[at + rng.choice([1, 2, 8, 100]) :]


def spliced(rng, content, donor):
    return content[: place(rng, content)] + donor[place(rng, donor) :]


def inserted(rng, content, donor):
    at, start = place(rng, content), place(rng, donor)
    return content[:at] + donor[start : start + rng.choice([1, 4, 20, 200])] + content[at:]


def repeated(rng, content, donor):
    at = place(rng, content)
    piece = content[at : at + rng.choice([1, 2, 9, 30])]
    return content[:at] + piece * rng.choice([2, 10, 1000]) + content[at:]


def extreme(rng, content, donor):
    """A number of 1, 2, 4 or 8 bytes becomes one at an edge."""
    at, size = place(rng, content), rng.choice([1, 2, 4, 8])
    edge = rng.choice([0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1])
    return content[:at] + edge.to_bytes(size, rng.choice(["little", "big"])) + content[at + size :]


def rewritten(rng, content, donor):
    """Another instruction in the place of one of a pickle's, or one more."""
    places = instructions(content)
    if not places:
        return flipped(rng, content, donor)
    at = rng.choice(places)
    code = rng.choice(pickletools.opcodes).code.encode("latin1")
    if rng.random() < 0.3:
        other = rng.choice(places)
        end = next((p for p in places if p > other), other + 1)
        code = content[other:end]
    return content[:at] + code + content[at + rng.choice([0, 1]) :]


def instructions(content: bytes) -> list[int]:
    places = []
    try:
        places = [place for _, _, place in zip_first(pickletools.genops(content), 3000)]
    except Exception:
        places = []
    return places


def zip_first(items: Iterable, n: int) -> Iterator:
    for _, item in zip(range(n), items, strict=False):
        yield item


def place(rng, content):
    """Mostly near the start, where sizes and names are."""
    return rng.randrange(min(len(content), rng.choice([32, 300, 1 << 30])) or 1)


MUTATIONS = [
    flipped,
    replaced,
    cut,
    removed,
    spliced,
    inserted,
    repeated,
    extreme,
    rewritten,
    rewritten,
    rewritten,
]


# In the parent


class Outcome:
    """What came of a run.

    Attributes
    ----------
    counts : Counter
        Of each kind of outcome.
    failures : list of (order, kind, text)
    texts : dict
        What was said of each case of the corpus and each planted fault, by its name.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[tuple[dict, str, str]] = []
        self.texts: dict[str, tuple[str, str]] = {}

    def add(self, order: dict, kind: str, text: str) -> None:
        self.counts[kind] += 1
        self.texts[str(next(iter(order.values())))] = (kind, text)
        if kind.startswith("failure"):
            self.failures.append((order, kind, text))


class Child:
    """The process that reads; a new one after each that died."""

    def __init__(self) -> None:
        self.process = None

    def start(self) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.trust.files", "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=ROOT,
            env=os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
        )
        self.process.stdout.readline()  # it is ready: patience is for reading, not for imports

    def ask(self, order: dict) -> tuple[str, str]:
        if self.process is None:
            self.start()
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        # The planted ones that never end need not be waited for.
        patience = (
            1.0 if order.get("planted") in ("planted sleep", "planted deafness") else PATIENCE
        )
        return self.answer(patience) or self.died()

    def answer(self, seconds: float) -> tuple[str, str] | None:
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            self.process.send_signal(signal.SIGINT)
            if not select.select([self.process.stdout], [], [], seconds)[0]:
                self.stop()
                return "failure: endless", "and deaf to Ctrl-C"
        line = self.process.stdout.readline()
        return tuple(json.loads(line)) if line else None

    def died(self) -> tuple[str, str]:
        code = self.process.wait()
        self.errors.seek(0)
        tail = self.errors.read()[-2000:].decode(errors="replace")
        self.stop()
        return f"failure: the process ended with {code}", tail

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.errors.close()
            self.process = None


def examine(orders: Iterable[dict]) -> Outcome:
    """Have the child read what each order says, and gather the outcomes."""
    outcome, reader = Outcome(), Child()
    try:
        for order in orders:
            outcome.add(order, *reader.ask(order))
    finally:
        reader.stop()
    return outcome


def mutations(seed: int, seconds: float, first: int = 0, cases: int | None = None):
    """Orders for mutations, until the time is over or so many were given."""
    end, number = time.monotonic() + seconds, first
    while time.monotonic() < end and (cases is None or number < first + cases):
        yield {"seed": seed, "number": number}
        number += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="of mutations (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--cases", type=int, help="how many, instead of as many as time allows")
    parser.add_argument("--keep", type=Path, help="folder for the files of what failed")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child()
        return 0
    first = [{"corpus": name} for name in corpus()] if args.cases is None else []
    wrong = 0
    for what, orders in (
        ("corpus", first),
        ("mutations", mutations(args.seed, 60 * args.minutes, args.first, args.cases)),
    ):
        outcome = examine(orders)
        print(what, sum(outcome.counts.values()), dict(outcome.counts))  # noqa: T201
        for order, kind, text in outcome.failures:
            print(order, kind, text[-1500:])  # noqa: T201
            if args.keep:
                case = ordered(order)
                for name, content in case.files.items():
                    path = args.keep / "-".join(map(str, order.values())) / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
        wrong += len(outcome.failures)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
