"""The CUDA backend beside the CPU's and the specification: on a GPU, or on Numba's simulator.

pytest tests/test_cuda.py                            # where there is a GPU
NUMBA_ENABLE_CUDASIM=1 pytest tests/test_cuda.py     # anywhere
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from golden.cases import RECORD, device_cases, written

pytest.importorskip("numba_cuda")
from numba import config, cuda

import subsel
from subsel.kernels import cpu, reference

if config.ENABLE_CUDASIM:
    import simulator

    simulator.install()
elif not cuda.is_available():
    pytest.skip("needs a GPU, or NUMBA_ENABLE_CUDASIM=1", allow_module_level=True)

from subsel.kernels import cuda as kernels
from subsel.sources import cuda as backend
from subsel.sources import device as gpu

METRICS = ("euclidean", "cosine", "dot", "rbf")
LANES = kernels.LANES
N = 2 * LANES + LANES // 2 - 1
"""Rows that fill two tiles, and a part of the third."""


def features(n=N, d=3, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def tied(n_points=N, n=2 * LANES + 3, seed=0):
    """A matrix of small integers, with many ties."""
    return np.random.default_rng(seed).integers(0, 4, (n_points, n)).astype(float)


def agree(ours, wanted, metric=""):
    """Two selections have the same bits; for rbf the same elements, as expm1 may differ."""
    np.testing.assert_array_equal(ours.indices, wanted.indices)
    np.testing.assert_array_equal(ours.assignment, wanted.assignment)
    np.testing.assert_array_equal(ours.sizes, wanted.sizes)
    if metric == "rbf":
        np.testing.assert_allclose(ours.gains, wanted.gains, rtol=1e-5)
    else:
        np.testing.assert_array_equal(ours.gains, wanted.gains)
        assert ours.value == wanted.value


@pytest.mark.parametrize("memory", [0, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_features_as_on_the_cpu(metric, dtype, memory, monkeypatch):
    monkeypatch.setattr("subsel.sources.scale.DENSE_FROM_DIMENSION", 1)
    X = features(dtype=dtype)
    X[7] = 0
    ours = subsel.select(X, 6, metric=metric, backend="cuda", memory=memory)
    assert ours.path == ("cuda features" if memory == 0 else "cuda dense")
    agree(ours, subsel.select(X, 6, metric=metric), metric)


def test_rows_so_near_that_distances_are_rounded():
    """A billionth of the spread is a few steps of the grid."""
    X = features(LANES + 2, 2) * np.float32(1e-9)
    X[0] = 1
    X[3] = 0
    agree(subsel.select(X, 8, backend="cuda"), subsel.select(X, 8))


@pytest.mark.parametrize("memory", [0, None])
@pytest.mark.parametrize("metric", ["euclidean", "dot"])
def test_more_features_than_fit_at_a_time(metric, memory):
    X = features(LANES + 2, 2 * kernels.DEPTH + 3)
    agree(
        subsel.select(X, 4, metric=metric, backend="cuda", memory=memory),
        subsel.select(X, 4, metric=metric),
    )


@pytest.mark.parametrize("memory", [0, None])
def test_ties_of_integers_go_to_the_lowest_index(memory, monkeypatch):
    monkeypatch.setattr("subsel.sources.scale.DENSE_FROM_DIMENSION", 1)
    X = np.random.default_rng(1).integers(0, 4, (N, 2))
    f = subsel.FacilityLocation.from_features(X, backend="cuda", memory=memory)
    selection = subsel.greedy(f, 12)
    S = reference.similarity(X, c0=f.offset)
    np.testing.assert_array_equal(selection.indices, reference.greedy(S, 12)[0])
    np.testing.assert_array_equal(f.assignment, reference.assign(S, selection.indices)[0])


@pytest.mark.parametrize("in_space", [False, True])
def test_selecting_everything(in_space, monkeypatch):
    """Also where the last in space, which fills up the last tile, is not the last of the rows."""
    if in_space:
        monkeypatch.setattr(backend, "SPATIAL_FROM", 0)
    X = features(130 if in_space else LANES + 2, 1).round()
    agree(subsel.select(X, len(X), backend="cuda"), subsel.select(X, len(X)))
    ours, wanted = (
        subsel.FacilityLocation.from_features(X, backend=place).extend(
            np.zeros(len(X), bool), len(X)
        )
        for place in ("cuda", "cpu")
    )
    np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("method", ["lazy", "greedy", "stochastic"])
def test_classes_of_any_size(method):
    """One of a single row, of exactly a tile, and of one row more."""
    labels = np.repeat([5, 2, 9, 7], [1, LANES, LANES + 1, 3])
    labels = np.random.default_rng(3).permutation(labels)
    X = features(len(labels))
    how = {"labels": labels, "method": method, "random_state": 1}
    ours = subsel.select(X, 0.2, backend="cuda", **how)
    agree(ours, subsel.select(X, 0.2, **how))
    assert ours.path == "cuda features"


@pytest.mark.parametrize("metric", METRICS)
def test_matrices_of_several_classes(metric):
    labels = np.arange(N) % 3
    X = features(d=34)
    ours = subsel.select(X, {0: 3, 1: 1, 2: 2}, labels=labels, metric=metric, backend="cuda")
    assert ours.path == "cuda dense"
    agree(ours, subsel.select(X, {0: 3, 1: 1, 2: 2}, labels=labels, metric=metric), metric)


def test_classes_of_very_different_scale():
    labels = np.arange(N) % 2
    X = features(dtype=np.float64) * np.where(labels, 1e120, 1e-150)[:, None]
    agree(subsel.select(X, 6, labels=labels, backend="cuda"), subsel.select(X, 6, labels=labels))


@pytest.mark.parametrize("optimizer", [subsel.greedy, subsel.lazy_greedy, subsel.stochastic_greedy])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_a_given_matrix(dtype, optimizer):
    S = tied().astype(dtype)
    f = subsel.FacilityLocation(cuda.to_device(S))
    assert f.path == "cuda dense"
    how = {"random_state": 0} if optimizer is subsel.stochastic_greedy else {}
    ours, wanted = optimizer(f, 9, **how), optimizer(S, 9, **how)
    np.testing.assert_array_equal(ours.indices, wanted.indices)
    np.testing.assert_array_equal(ours.gains, wanted.gains)
    if not how:
        np.testing.assert_array_equal(ours.indices, reference.greedy(S, 9)[0])


def test_a_random_matrix():
    S = np.random.default_rng(0).random((N, LANES + 5))
    ours = subsel.greedy(subsel.FacilityLocation(S, backend="cuda"), 9)
    wanted = subsel.greedy(S, 9)
    np.testing.assert_array_equal(ours.indices, wanted.indices)
    np.testing.assert_array_equal(ours.gains, wanted.gains)


def in_f_order(array):
    return cuda.to_device(np.asfortranarray(array))


def strided(array):
    return cuda.to_device(np.repeat(array, 2, axis=1))[:, ::2]


@pytest.mark.parametrize("lay", [in_f_order, strided])
def test_other_layouts(lay):
    S, X = tied(), features()
    f = subsel.FacilityLocation(lay(S))
    np.testing.assert_array_equal(subsel.greedy(f, 4).indices, reference.greedy(S, 4)[0])
    agree(subsel.select(lay(X), 4), subsel.select(X, 4))


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_other_types(dtype):
    X = np.random.default_rng(0).integers(0, 100, (LANES + 2, 2)).astype(dtype)
    agree(subsel.select(cuda.to_device(X), 3), subsel.select(X, 3))


def objective(kind):
    """An objective on the GPU, and its similarities."""
    if kind == "dense":
        return subsel.FacilityLocation(tied(), backend="cuda"), tied()
    X = np.random.default_rng(7).integers(0, 9, (N, 1))
    f = subsel.FacilityLocation.from_features(X, backend="cuda")
    return f, reference.similarity(X, c0=f.offset)


@pytest.mark.parametrize("kind", ["features", "dense"])
def test_value_assign_gains_and_add(kind):
    f, S = objective(kind)
    assert f.value([]) == 0
    for indices in ([3], [5, 5], [30, 2, 7]):
        assert f.value(indices) == reference.value(S, indices)
        for ours, wanted in zip(f.assign(indices), reference.assign(S, indices), strict=True):
            np.testing.assert_array_equal(ours, wanted)
    f.add(4)
    chosen = [4]
    for element in (11, 30, 30):
        np.testing.assert_array_equal(f.gains(np.arange(f.n)), reference.gains(S, chosen))
        f.add(element)
        chosen.append(element)
    np.testing.assert_array_equal(f.gains([20, 0]), reference.gains(S, chosen)[[20, 0]])
    assert len(f.gains([])) == 0
    np.testing.assert_array_equal(f.assignment, reference.assign(S, chosen)[0])


@pytest.mark.parametrize("kind", ["features", "dense"])
def test_adding_in_portions_what_is_not_taken(kind):
    f, S = objective(kind)
    allowed = np.arange(1, f.n, 2)
    wanted = allowed[reference.greedy(S[:, allowed], 8)[0]]
    taken = np.ones(f.n, bool)
    taken[allowed] = False
    f.reset()
    added = [*f.extend(taken, 3)[0], *f.extend(taken, 0)[0], *f.extend(taken, 5)[0]]
    np.testing.assert_array_equal(added, wanted)
    np.testing.assert_array_equal(f.gains(np.arange(f.n)), reference.gains(S, added))


@pytest.mark.parametrize("kind", ["features", "dense"])
def test_restrict(kind):
    f, S = objective(kind)
    part = np.array([30, 3, 4, 17, 12])
    f.add(30)
    g = f.restrict(part)
    assert (g.n, g.n_points, g.offset) == (5, f.n_points, f.offset)
    np.testing.assert_array_equal(subsel.greedy(g, 5).indices, reference.greedy(S[:, part], 5)[0])
    assert g.value([1]) == reference.value(S[:, part], [1])


@pytest.mark.parametrize("kind", ["features", "dense"])
def test_gains_of_those_that_are_added_one_by_one(kind):
    f, S = objective(kind)
    picked = np.array([30, 3, 17])
    search, gains = f._similarity.represent(picked)
    values = [reference.value(S, picked[:count]) for count in range(4)]
    np.testing.assert_allclose(gains, np.diff(values), rtol=1e-12)
    np.testing.assert_array_equal(f._similarity.assignment(search), S[:, picked].argmax(1))


@pytest.mark.parametrize("labels", [None, np.arange(N) % 2])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_partitions_and_merges_as_on_the_cpu(metric, labels, monkeypatch):
    monkeypatch.setattr("subsel.sources.scale.DENSE_FROM_DIMENSION", 1)
    X = features()
    X[5] = 0
    settings = {"partitions": 3, "metric": metric, "labels": labels, "random_state": 0}
    wanted = subsel.greedi(X, 4, **settings)
    for memory in (0, 2**20):
        ours = subsel.greedi(X, 4, backend="cuda", memory=memory, **settings)
        agree(ours, wanted)


def test_partitions_with_costs_and_given_rows_as_on_the_cpu():
    X, costs = features(), 1 + np.arange(N) % 3
    settings = {"partitions": 3, "random_state": 0, "given": [1, 9], "exclude": [2, 30]}
    for more in ({}, {"costs": costs}):
        wanted = subsel.greedi(X, 4, **settings, **more)
        agree(subsel.greedi(X, 4, backend="cuda", **settings, **more), wanted)


def test_an_order_in_space_skips_more_and_changes_nothing(monkeypatch):
    labels = np.repeat([0, 1], [3 * LANES, N - LANES])
    X = features(len(labels), 1)
    wanted = subsel.select(X, 0.2, labels=labels, backend="cuda")
    monkeypatch.setattr(backend, "SPATIAL_FROM", 2 * LANES)
    monkeypatch.setattr(cpu, "spatial_order", lambda rows: np.argsort(rows[:, 0], kind="stable"))
    ours = subsel.select(X, 0.2, labels=labels, backend="cuda")
    agree(ours, wanted)
    assert ours.n_evaluations < wanted.n_evaluations
    f = subsel.FacilityLocation.from_features(X, backend="cuda")
    g = subsel.FacilityLocation.from_features(X)
    assert f.value([3, 50]) == g.value([3, 50])
    part = [3, 40, 50, 60]
    few, same = f.restrict(part), g.restrict(part)
    assert few.value([1, 2]) == same.value([1, 2])
    np.testing.assert_array_equal(subsel.greedy(few, 4).indices, subsel.greedy(same, 4).indices)


@pytest.mark.parametrize("error", [MemoryError(), gpu.CudaAPIError(2, "out of memory")])
def test_without_memory_for_a_matrix_there_is_none(error, monkeypatch):
    X = features(d=40)
    wanted = subsel.select(X, 4)
    empty = backend.Device.empty

    def scarce(self, shape, dtype):
        if np.prod(shape) == N * N:
            raise error
        return empty(self, shape, dtype)

    monkeypatch.setattr(backend.Device, "empty", scarce)
    ours = subsel.select(X, 4, backend="cuda")
    assert ours.path == "cuda features"
    agree(ours, wanted)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda X: subsel.select(X, 3), ValueError, r"X\[18, 1\] is nan; every entry"),
        (lambda X: subsel.select(X, 3, labels=np.arange(N) % 2), ValueError, r"X\[18, 1\] is nan"),
        (lambda X: subsel.FacilityLocation(X), ValueError, r"similarity\[18, 1\] is nan"),
        (lambda X: subsel.select(X[0], 3), ValueError, r"X must be 2-D \(n, d\)"),
        (lambda X: subsel.FacilityLocation(X[0]), ValueError, "similarity must be 2-D"),
        (lambda X: subsel.select(X, 3, backend="gpu"), ValueError, "backend must be one of"),
        (lambda X: subsel.select(X, 3, memory=-1), ValueError, "memory must be"),
        (lambda X: subsel.select(X, 0), ValueError, "budget must be"),
    ],
)
def test_refused(call, error, message):
    X = np.ones((N, 3), np.float32)
    X[18:20, 1] = np.nan
    X[19, 0] = np.inf
    with pytest.raises(error, match=message):
        call(cuda.to_device(X))


def test_refused_matrices():
    S = np.ones((N, 3))
    S[20, 2] = -4
    with pytest.raises(ValueError, match=r"similarity\[20, 2\] is -4.0; similarities must not"):
        subsel.FacilityLocation(S, backend="cuda")
    from scipy.sparse import csr_array

    with pytest.raises(TypeError, match=r"sparse.*backend='cpu'"):
        subsel.FacilityLocation(csr_array(S), backend="cuda")
    with pytest.raises(TypeError, match="complex"):
        subsel.FacilityLocation(cuda.to_device(S.astype(complex)))
    with pytest.raises(ValueError, match="too far"):
        subsel.select(np.array([[0.0], [1e308]]), 1, backend="cuda")


def test_data_on_the_gpu_for_the_cpu_is_copied():
    X = features()
    ours = subsel.select(cuda.to_device(X), 4, backend="cpu")
    assert ours.path == "features"
    agree(ours, subsel.select(X, 4))


def test_progress_bar(capsys):
    subsel.select(features(), 4, labels=np.arange(N) % 2, backend="cuda", progress=True)
    assert "4/4" in capsys.readouterr().err


# Kernels on their own ---------------------------------------------------------------------------


def one_class(X, metric, memory):
    rows = [np.arange(len(X))]
    return backend.Features(X).of_classes(rows, metric, None, memory)


@pytest.fixture
def device():
    return backend.Device()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_conditioned_features_have_the_same_bits(metric, dtype):
    from subsel.sources.features import Conditioned

    X = features(d=5, dtype=dtype) * 37
    X[4] = 0
    ours = one_class(X, metric, memory=0)
    wanted = Conditioned.of(X, metric, None)
    rows = ours.device.download(ours.store.rows)[:N]
    np.testing.assert_array_equal(rows, wanted.rows)
    assert (ours.unit, ours.offset) == (wanted.scale.unit, wanted.scale.offset)
    np.testing.assert_array_equal(ours.device.download(ours.store.rule)[0], wanted.rule[1:])


@pytest.mark.parametrize("metric", METRICS)
def test_matrices_have_the_same_bits(metric):
    from subsel.sources.features import Conditioned

    X = features(d=34, dtype=np.float64)
    ours = one_class(X, metric, memory=None)
    entries = ours.device.download(ours.store.entries).reshape(N, N)
    wanted = Conditioned.of(X, metric, None).matrix().matrix
    np.testing.assert_allclose(entries, wanted, rtol=1e-15 if metric == "rbf" else 0)


def test_radius_and_unit_rows_are_summed_in_order(device):
    """Sums of squares whose last bits depend on their order."""
    d = 29
    X = features(LANES, d, np.float64)
    rows = device.upload(np.column_stack([X, np.zeros(LANES)]))
    device.run(kernels.scale_to_unit, 1, LANES, rows)
    wanted = np.empty((LANES, d + 1))
    X.flags.writeable = False
    cpu.unit_rows(X, wanted)
    np.testing.assert_array_equal(device.download(rows), wanted)
    radius = device.upload(np.zeros(1))
    group, middle = device.upload(np.zeros(1, np.int32)), features(1, d, np.float64)
    device.run(kernels.find_radius, 1, LANES, device.upload(X), group, device.upload(middle),
               device.upload(np.array([5.0])), radius)  # fmt: skip
    assert 5 * device.download(radius)[0] == cpu.radius(X, middle[0], 5.0)


def test_ranges_and_boxes(device):
    layout = backend.Layout.of([np.arange(LANES + 3), np.arange(2)])
    rows = features(len(layout.local), kernels.THREADS + 2)
    low, high = (device.empty((2, rows.shape[1]), np.float32) for _ in range(2))
    boxes = backend._boxes(device, device.upload(rows))
    device.run(
        kernels.find_ranges, (2, 2), kernels.THREADS, device.upload(layout.start), *boxes, low, high
    )
    by_tile = rows.reshape(3, LANES, -1)
    np.testing.assert_array_equal(device.download(boxes[0]), by_tile.min(axis=1))
    np.testing.assert_array_equal(device.download(boxes[1]), by_tile.max(axis=1))
    parts = rows[: 2 * LANES], rows[2 * LANES :]
    np.testing.assert_array_equal(device.download(low), [part.min(axis=0) for part in parts])
    np.testing.assert_array_equal(device.download(high), [part.max(axis=0) for part in parts])


def test_layout():
    layout = backend.Layout.of([np.arange(LANES + 1)[::-1], np.arange(1)])
    assert layout.start.tolist() == [0, 2 * LANES, 3 * LANES]
    assert layout.group.tolist() == [0, 0, 1]
    assert layout.padding().sum() == 3 * LANES - len(layout.size) - LANES
    np.testing.assert_array_equal(layout.members(layout.local), np.arange(LANES + 1))
    np.testing.assert_array_equal(layout.members(layout.local, 1), [0])


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("count", [1, 16, 17, 32, 33, 34, 48, 49, 200])
def test_rounds_are_as_many_as_asked_for_with_a_graph_or_without(count, recorded, monkeypatch):
    ran = []

    class Launch:
        stream = 0

        def __init__(self, name):
            self.name = name

        def __call__(self, *arguments):
            ran.append((self.name, *arguments))

    class Kernel(str):
        def specialize(self, *arguments):
            return self

    class Graph:
        def launch(self, stream):
            ran.extend([("a", 1), ("b", 2)] * gpu._RECORDED)

    monkeypatch.setattr(gpu, "config", SimpleNamespace(ENABLE_CUDASIM=False))
    monkeypatch.setattr(backend.Device, "_launch", lambda self, kernel, *_: Launch(str(kernel)))
    monkeypatch.setattr(
        backend.Device, "_recorded", lambda self, steps: Graph() if recorded else None
    )
    monkeypatch.setattr(backend.Device, "synchronize", lambda self: None)
    device = object.__new__(backend.Device)
    device.repeat([(Kernel("a"), 1, 32, 1), (Kernel("b"), 1, 32, 2)], count)
    assert ran == [("a", 1), ("b", 2)] * count


# torch, where there is a GPU ----------------------------------------------------------------------


@pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="the simulator has no memory for torch")
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64"])
def test_torch_tensors_in_and_out(dtype):
    torch = pytest.importorskip("torch")
    X = torch.from_numpy(features() * 9).to(getattr(torch, dtype))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        ours = subsel.select(X.cuda().requires_grad_(X.is_floating_point()), 6)
    assert ours.path == "cuda features"
    agree(ours, subsel.select(X, 6))
    back = ours.to_torch("cuda")
    assert back.indices.is_cuda
    np.testing.assert_array_equal(back.sizes.cpu().numpy(), ours.sizes)
    f = subsel.FacilityLocation(X.cuda().abs() if dtype != "bfloat16" else X.cuda().abs().float())
    assert f.path == "cuda dense"


@pytest.mark.skipif(bool(config.ENABLE_CUDASIM), reason="the simulator has no memory for torch")
def test_epic_on_the_gpu():
    torch = pytest.importorskip("torch")
    from subsel.defense import EPIC, last_layer_gradients

    torch.manual_seed(0)
    data = torch.randn(200, 6), torch.arange(200) % 3
    model = torch.nn.Linear(6, 3).cuda()
    gradients, labels = last_layer_gradients(model, data, tensors=True)
    assert gradients.is_cuda
    kept = [EPIC(warmup=0, interval=1) for _ in range(2)]
    kept[0].prune(gradients, labels, 0)
    kept[1].prune(gradients.cpu().numpy(), labels.cpu().numpy(), 0)
    np.testing.assert_array_equal(kept[0].kept, kept[1].kept)


@pytest.mark.parametrize(("name", "run"), [pytest.param(*x, id=x[0]) for x in device_cases()])
def test_as_on_record(name, run):
    record = json.loads(RECORD.read_text())[name]
    assert written(run(), "gains" in record) == record


@pytest.mark.parametrize("memory", [0, None])
@pytest.mark.parametrize("metric", METRICS)
def test_coverage_of_features_by_a_rule_as_on_the_cpu(metric, memory, monkeypatch):
    monkeypatch.setattr("subsel.sources.scale.DENSE_FROM_DIMENSION", 1)
    X = features(LANES + 5)
    ours, wanted = (
        subsel.SaturatedCoverage.from_features(
            X, metric, fraction=0.2, memory=memory, backend=place
        )
        for place in ("cuda", "cpu")
    )
    assert ours.path == ("cuda features" if memory == 0 else "cuda dense")
    found, expected = (subsel.lazy_greedy(f, 5) for f in (ours, wanted))
    np.testing.assert_array_equal(found.indices, expected.indices)
    if metric != "rbf":
        np.testing.assert_array_equal(found.gains, expected.gains)
        assert ours.value(found.indices) == wanted.value(found.indices)


def test_coverage_of_a_matrix_by_a_rule_as_on_the_cpu():
    S = tied(LANES + 3, LANES - 2) / 4
    ours, wanted = (
        subsel.SaturatedCoverage(S, fraction=0.25, backend=place) for place in ("cuda", "cpu")
    )
    subsel.testing.check_objective(ours, trials=2)
    for f, g in ((ours, wanted), (ours.restrict([3, 1, 7]), wanted.restrict([3, 1, 7]))):
        found, expected = subsel.greedy(f, 3), subsel.greedy(g, 3)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.gains, expected.gains)


def test_constraints_and_certificates_are_those_of_the_cpu():
    X = np.random.default_rng(0).integers(-4, 5, (40, 3)).astype(np.float32)
    ours, wanted = (
        subsel.FacilityLocation.from_features(X, backend=backend) for backend in ("cuda", "cpu")
    )
    costs = np.arange(1, 41) / 10
    for budget in (
        5, subsel.constraints.Knapsack(costs, 3.3), subsel.constraints.MinDistance(X, 3.0),
        subsel.constraints.Groups(np.arange(40) % 3, at_most=2, at_least={1: 2}, count=5),
    ):  # fmt: skip
        found, own = (subsel.greedy(f, budget, given=[3], exclude=[0, 9]) for f in (ours, wanted))
        np.testing.assert_array_equal(found.indices, own.indices)
        assert (found.value, found.bound, found.cost) == (own.value, own.bound, own.cost)
    labels = np.arange(40) % 2
    found, own = (subsel.select(X, 6, labels=labels, backend=b) for b in ("cuda", "cpu"))
    assert found.value <= found.bound <= 1.2 * own.bound
