"""Distributed selection: one result however rows are chunked and tasks are run."""

import os
import signal
import subprocess
import sys
import time

import dask.array as da
import distributed
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import subsel
from subsel.distributed import engines, tasks
from subsel.distributed.plan import Plan
from subsel.distributed.run import Run
from subsel.kernels import reference
from subsel.sources.features import Conditioned

N, D, K = 900, 5, 12


@pytest.fixture(scope="module")
def X():
    random = np.random.default_rng(0)
    centers = random.normal(size=(20, D))
    return centers[random.integers(20, size=N)] + 0.3 * random.normal(size=(N, D))


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(1).choice(["a", "b", "c"], N, p=[0.6, 0.37, 0.03])


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=30)
        yield client


@pytest.fixture
def runs(monkeypatch):
    """Every run that is begun, to look into afterwards."""
    begun = []
    selection = Run.selection
    monkeypatch.setattr(Run, "selection", lambda run: begun.append(run) or selection(run))
    return begun


def assert_same(a, b):
    for name in ("indices", "gains", "sizes", "assignment"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert (a.value, a.n_evaluations, a.path) == (b.value, b.n_evaluations, b.path)


# What is selected


def oracle(X, plan, metric):
    """The algorithm in NumPy, for rows without labels, dealt as the plan says."""
    c0 = subsel.FacilityLocation.from_features(X, metric).offset
    S = reference.similarity(X, metric, c0=c0)
    (k,) = plan.counts
    found = {}
    for node in plan.tree():
        if not node.children:
            rows = plan.rows(node.number)
            chosen = rows[reference.greedy(S[np.ix_(rows, rows)], min(k, len(rows)))[0]]
            single, sample = chosen, rows
        else:
            below = [found[child.level, child.number] for child in node.children]
            rows = np.sort(np.concatenate([chosen for chosen, _, _ in below]))
            sample = np.concatenate([part for _, _, part in below])
            chosen = rows[reference.greedy(S[np.ix_(sample, rows)], min(k, len(rows)))[0]]
            single = max(
                (part for _, part, _ in below),
                key=lambda some: (len(some), reference.value(S[sample], some)),
            )
        sample = sample[plan.draw(0, len(sample), node.level, node.number)]
        found[node.level, node.number] = chosen, single, sample
    chosen, single, _ = found[node.level, node.number]
    if len(single) == k and reference.value(S, single) > reference.value(S, chosen):
        chosen = single
    return chosen, [reference.value(S, chosen[: t + 1]) for t in range(k)]


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot", "rbf"])
@pytest.mark.parametrize(
    "layout",
    [
        {"partitions": 1},
        {"partitions": 5},
        {"partitions": 7, "spread": 1},
        {"partitions": 90},  # of fewer rows than are selected
        {"max_rows": 100, "spread": 4},  # three levels
        {"max_rows": 200, "sample": 500},
    ],
)
def test_it_is_what_a_plain_implementation_selects(X, runs, metric, layout):
    chosen = subsel.greedi(X, K, metric=metric, random_state=3, **layout)
    indices, values = oracle(X, runs[0].plan, metric)
    np.testing.assert_array_equal(chosen.indices, indices)
    np.testing.assert_allclose(np.cumsum(chosen.gains), values, rtol=1e-9)


def test_one_partition_is_greedy(X):
    whole = subsel.select(X, K)
    chosen = subsel.greedi(X, K)
    np.testing.assert_array_equal(chosen.indices, whole.indices)
    np.testing.assert_array_equal(chosen.gains, whole.gains)
    np.testing.assert_array_equal(chosen.assignment, whole.assignment)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot", "rbf"])
def test_what_holds_of_all_rows_is_exact(X, metric, dtype):
    X = (10 * X).astype(dtype)
    chosen = subsel.greedi(X, K, partitions=6, metric=metric, random_state=0)
    f = subsel.FacilityLocation.from_features(X, metric)
    assert chosen.value == f.value(chosen.indices) == chosen.gains.sum()
    assert chosen.gains[0] == f.value(chosen.indices[:1])
    assignment, sizes = f.assign(chosen.indices)
    np.testing.assert_array_equal(chosen.assignment, assignment)
    np.testing.assert_array_equal(chosen.sizes, sizes)


@pytest.mark.parametrize("budget", [0.05, 40, {"a": 20, "b": 9, "c": 2}])
def test_classes_are_selected_from_by_themselves(X, labels, budget):
    chosen = subsel.greedi(X, budget, labels=labels, partitions=6, random_state=0)
    whole = subsel.select(X, budget, labels=labels)
    own = labels[chosen.indices]
    np.testing.assert_array_equal(
        np.unique(own, return_counts=True)[1],
        np.unique(labels[whole.indices], return_counts=True)[1],
    )
    np.testing.assert_array_equal(own[chosen.assignment], labels)
    np.testing.assert_array_equal(chosen.sizes, np.bincount(chosen.assignment))
    value = 0.0
    for name in np.unique(labels):
        f = subsel.FacilityLocation.from_features(X[labels == name])
        inside = np.searchsorted(np.flatnonzero(labels == name), chosen.indices[own == name])
        value += f.value(inside)
        assert chosen.gains[own == name].sum() == f.value(inside)
        np.testing.assert_array_equal(
            inside[f.assign(inside)[0]],
            np.searchsorted(
                np.flatnonzero(labels == name), chosen.indices[chosen.assignment[labels == name]]
            ),
        )
    assert chosen.value == pytest.approx(value, rel=1e-15)
    assert chosen.value > 0.99 * whole.value


def test_one_partition_with_labels_is_select(X, labels):
    chosen = subsel.greedi(X, 0.1, labels=labels)
    whole = subsel.select(X, 0.1, labels=labels)
    for name in ("indices", "gains", "value", "sizes", "assignment"):
        np.testing.assert_array_equal(getattr(chosen, name), getattr(whole, name), err_msg=name)


def test_the_best_single_partition_wins_if_merging_was_bad(X, monkeypatch):
    merge = tasks.merge

    def bad(plan, place, *children):
        found = merge(plan, place, *children)
        worst = tasks.joined([child[0].chosen for child in children])
        order = np.argsort(np.linalg.norm(worst.features - X[0], axis=1))[:K]
        return {0: found[0]._replace(chosen=worst.take(order))}

    monkeypatch.setattr(tasks, "merge", bad)
    chosen = subsel.greedi(X, K, partitions=5, random_state=0)
    assert chosen.value > 0.95 * subsel.select(X, K).value
    assert chosen.value == subsel.FacilityLocation.from_features(X).value(chosen.indices)


# How rows are dealt


@given(
    n=st.integers(1, 400), data=st.data(), spread=st.integers(1, 9), seed=st.integers(0, 2**63 - 1)
)
def test_a_deal_takes_each_row_once_in_partitions_of_nearly_one_size(n, data, spread, seed):
    partitions = data.draw(st.integers(1, n))
    taken = data.draw(st.sampled_from([n, max(partitions, n // 3)]))
    plan = Plan(n, [n], [1], "dot", 0, "cpu", seed, n, taken, partitions, spread, 2, 1)
    parts = [plan.rows(p) for p in range(partitions)]
    rows = np.concatenate(parts)
    assert len(np.unique(rows)) == len(rows) >= taken
    assert max(map(len, parts)) <= -(-taken // partitions)
    if taken == n:
        assert len(rows) == n
    for p, part in enumerate(parts):
        assert (np.diff(part) > 0).all()
        blocks = plan.blocks(p)
        assert len(blocks) <= spread
        inside = (blocks[:, 0] <= part[:, None]) & (part[:, None] < blocks[:, 1])
        assert (inside.sum(axis=1) == 1).all()


def test_spread_tells_blocks_as_they_lie_from_a_uniform_deal(X, runs):
    for spread in (1, 30):
        subsel.greedi(X, 3, partitions=30, spread=spread, random_state=0)
    as_it_lies, uniform = (
        [run.plan.rows(p) for p in range(30)] for run in runs
    )  # fmt: skip
    assert sorted(part[0] for part in as_it_lies) == list(range(0, N, 30))
    assert all(part[-1] - part[0] == 29 for part in as_it_lies)
    assert all(part[-1] - part[0] > N / 2 for part in uniform)


def test_a_matrix_in_memory_selects_the_same(monkeypatch):
    made = []
    matrix = Conditioned.matrix
    monkeypatch.setattr(
        Conditioned, "matrix", lambda self: made.append(len(self.rows)) or matrix(self)
    )
    X = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    chosen = subsel.greedi(X, K, partitions=3, random_state=0)
    assert not made
    other = subsel.greedi(X, K, partitions=3, random_state=0, memory=100 * 100 * 5)
    assert made == [100] * 3
    np.testing.assert_array_equal(chosen.indices, other.indices)
    np.testing.assert_array_equal(chosen.gains, other.gains)


def test_the_seed_decides(X):
    a, b, c = (subsel.greedi(X, K, partitions=6, random_state=seed) for seed in (0, 0, 1))
    assert_same(a, b)
    assert (a.indices != c.indices).any()


# However it is run


LAYOUTS = [
    {"partitions": 6},
    {"max_rows": 130, "spread": 3, "metric": "cosine"},
    {"partitions": 4, "labels": True},
]


def chunked(X):
    """The same rows as dask arrays in all sorts of chunks."""
    yield da.from_array(X, chunks=(100, D))
    yield da.from_array(X, chunks=((0, 100, 1, 99, 0, 100, 100, 100, 100, 100, 100, 100, 0), D))
    yield da.from_array(X, chunks=(90, 2))
    yield da.from_array(X[:, ::-1], chunks=(120, D))[:, ::-1]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_same_bits_for_any_chunks_layout_and_number_of_threads(X, labels, tmp_path, layout):
    if "labels" in layout:
        layout = layout | {"labels": labels}
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    chosen = subsel.greedi(X, K, random_state=0, **layout)
    for other in [X.tolist(), np.asfortranarray(X), mapped]:
        assert_same(chosen, subsel.greedi(other, K, random_state=0, **layout))
    for lazy in chunked(X):
        other = subsel.greedi(lazy, K, random_state=0, **layout)
        assert isinstance(other.assignment, da.Array)
        assert other.assignment.chunks[0] == lazy.chunks[0]
        assert_same(chosen, other)
    before = numba.get_num_threads()
    for threads in (1, 2):
        numba.set_num_threads(min(threads, before))
        assert_same(chosen, subsel.greedi(X, K, random_state=0, **layout))
    numba.set_num_threads(before)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_same_bits_on_a_cluster(X, labels, tmp_path, cluster, layout):
    if "labels" in layout:
        layout = layout | {"labels": labels}
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    chosen = subsel.greedi(X, K, random_state=0, **layout)
    with distributed.Client(cluster):
        kept = da.from_array(X, chunks=(100, D)).persist()
        for other in [X, mapped, mapped[::-1][::-1], *chunked(X), kept, (2 * kept) / 2]:
            assert_same(chosen, subsel.greedi(other, K, random_state=0, **layout))


def test_zarr_is_read_where_it_is_needed(X, tmp_path, cluster):
    import zarr

    zarr.create_array(str(tmp_path / "x.zarr"), data=X, chunks=(100, D))
    lazy = da.from_zarr(str(tmp_path / "x.zarr"))
    chosen = subsel.greedi(X, K, partitions=5, random_state=0)
    assert_same(chosen, subsel.greedi(lazy, K, partitions=5, random_state=0))
    with distributed.Client(cluster):
        assert_same(chosen, subsel.greedi(lazy, K, partitions=5, random_state=0))


@pytest.mark.parametrize("step", ["ranges", "partition", "merge", "evaluate"])
def test_a_worker_killed_in_the_middle_changes_nothing(X, cluster, monkeypatch, step):
    expected = subsel.greedi(X, K, partitions=8, random_state=0)
    finished = engines.Cluster.finished
    killed = []

    def kill_once(engine, running):
        if not killed and any(f"greedi-{step}-" in future.key for future in running):
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)
        return finished(engine, running)

    monkeypatch.setattr(engines.Cluster, "finished", kill_once)
    lazy = da.from_array(X, chunks=(100, D))
    with distributed.Client(cluster) as client:
        client.wait_for_workers(2, timeout=30)
        assert_same(expected, subsel.greedi(lazy, K, partitions=8, random_state=0))
    assert killed


def test_no_task_holds_more_rows_than_are_allowed(X, monkeypatch, runs):
    held = []
    similarity = Plan.similarity

    def counted(plan, c, points, candidates=()):
        held.append(len(points) + len(candidates))
        return similarity(plan, c, points, *([candidates] if len(candidates) else []))

    monkeypatch.setattr(Plan, "similarity", counted)
    lazy = da.from_array(X, chunks=(100, D))
    for max_rows in (8 * K, 110, 500):
        held.clear()
        subsel.greedi(X, K, max_rows=max_rows, random_state=0)
        assert max(held) <= max_rows + 2 * K  # those that are judged come with every piece
        if max_rows >= 100:
            subsel.greedi(lazy, K, max_rows=max_rows, random_state=0)
            assert max(held) <= max_rows + 2 * K
    assert [run.plan.tree()[-1].level for run in runs] == [4, 4, 4, 1, 1]


def test_interrupting_leaves_nothing_on_the_cluster(X, client, monkeypatch):
    finished = engines.Cluster.finished
    calls = []

    def interrupted(engine, running):
        calls.append(len(running))
        if len(calls) == 10:
            raise KeyboardInterrupt
        return finished(engine, running)

    monkeypatch.setattr(engines.Cluster, "finished", interrupted)
    with pytest.raises(KeyboardInterrupt):
        subsel.greedi(da.from_array(X, chunks=(100, D)), K, partitions=8)
    assert calls[-1] > 0
    for _ in range(100):
        left = client.run_on_scheduler(lambda dask_scheduler: sorted(dask_scheduler.tasks))
        if not left:
            break
        time.sleep(0.1)
    assert not left


def test_progress_is_shown_on_request(X, capsys):
    subsel.greedi(X, K, partitions=3)
    assert capsys.readouterr().err == ""
    subsel.greedi(X, K, partitions=3, progress=True)
    assert "100%" in capsys.readouterr().err


def test_arrays_in_memory_do_without_dask():
    code = (
        "import sys; sys.modules['dask'] = sys.modules['distributed'] = None\n"
        "import numpy as np, subsel\n"
        "subsel.greedi(np.eye(9), 2, partitions=2)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr


# What is refused


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_entry_that_is_not_finite_is_found_at_once(X, bad, runs):
    X = X.copy()
    X[417, 3] = bad
    with pytest.raises(ValueError, match=rf"X\[417, 3\] is {bad}; every entry must be finite"):
        subsel.greedi(X, K, partitions=3)
    with pytest.raises(ValueError, match=rf"X\[417, 3\] is {bad} \(row 17 of chunk 4\)"):
        subsel.greedi(da.from_array(X, chunks=(100, D)), K, partitions=3)
    assert not any(run.plan.scales for run in runs)


def test_a_chunk_that_is_not_finite_is_named_by_a_cluster(X, client):
    X = X.copy()
    X[417, 3] = np.nan
    with pytest.raises(ValueError, match=r"X\[417, 3\] is nan \(row 17 of chunk 4\)"):
        subsel.greedi(da.from_array(X, chunks=(100, D)), K, partitions=3)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"partitions": 0}, ValueError, "partitions must be in 1..900, not 0"),
        ({"partitions": 901}, ValueError, "partitions must be in 1..900, not 901"),
        ({"partitions": 2.0}, TypeError, "partitions must be a count"),
        ({"max_rows": True}, TypeError, "max_rows must be a count"),
        ({"max_rows": 95}, ValueError, "at least 8 times the budget, 96, to merge"),
        ({"max_rows": 400, "partitions": 2}, ValueError, "at least 3 are needed"),
        ({"spread": 0}, ValueError, "spread must be at least 1"),
        ({"sample": 11}, ValueError, "sample must be in 12..900"),
        ({"sample": 100, "partitions": 101}, ValueError, "partitions must be in 1..100"),
        ({"sample": 100, "labels": np.zeros(N, int)}, ValueError, "sample and labels cannot"),
        ({"labels": np.zeros(N - 1, int)}, ValueError, "labels must have shape"),
        ({"budget": 0}, ValueError, "budget must be a count"),
        ({"budget": 901}, ValueError, "budget must be a count in 1..900"),
        ({"metric": "manhattan"}, ValueError, "metric must be one of"),
        ({"random_state": "x"}, TypeError, "random_state"),
        ({"X": np.zeros((0, 3))}, ValueError, "X must not be empty"),
        ({"X": np.zeros(9)}, ValueError, "X must be 2-D"),
        ({"X": np.full((9, 2), "a")}, TypeError, "X must be numeric"),
        ({"X": np.zeros((20, 2)) + 1e301 * np.arange(40).reshape(20, 2)}, ValueError, "spreads"),
    ],
)  # fmt: skip
def test_bad_arguments(X, change, error, words):
    arguments = {"X": X, "budget": K, **change}
    with pytest.raises(error, match=words):
        subsel.greedi(**arguments)


def test_bad_dask_arrays(X):
    lazy = da.from_array(X, chunks=(100, D))
    with pytest.raises(ValueError, match="unknown sizes; call X"):
        subsel.greedi(lazy[lazy[:, 0] > 0], K)
    with pytest.raises(ValueError, match="chunk of 100 rows, more than max_rows=99: rechunk X"):
        subsel.greedi(lazy, K, max_rows=99)
    with pytest.raises(ValueError, match="2-D"):
        subsel.greedi(lazy[:, 0], K)
    with pytest.raises(ValueError, match="empty"):
        subsel.greedi(lazy[:0], K)
    with pytest.raises(TypeError, match="numeric"):
        subsel.greedi(lazy.astype(complex), K)
    with pytest.raises(TypeError, match="chunks of NumPy arrays, not of MaskedArray"):
        subsel.greedi(da.ma.masked_greater(lazy, 1), K)
    with pytest.raises(TypeError, match=r"dask Delayed; pass its .to_dask_array"):
        subsel.greedi(lazy.to_delayed()[0, 0], K)
    wrong = da.map_blocks(lambda rows: rows[1:], lazy, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(ValueError, match=r"chunk 0 of X has shape \(99, 5\)"):
        subsel.greedi(wrong, K)


def test_a_chunk_of_another_width_is_named(X, cluster):
    """Whichever it is: dask knows only what it was told of the shapes."""
    for odd in (0, 4):
        chunks = [
            da.from_array(X[100 * i : 100 * i + 100, : D - (i == odd)], chunks=-1) for i in range(9)
        ]
        for chunk in chunks:
            chunk._chunks = ((100,), (D,))
        lazy = da.concatenate(chunks)
        words = rf"chunk {odd} of X has shape \(100, 4\), but X says that it has \(100, 5\)"
        with pytest.raises(ValueError, match=words):
            subsel.greedi(lazy, K, partitions=3)
    with distributed.Client(cluster), pytest.raises(ValueError, match=words):
        subsel.greedi(lazy, K, partitions=3)


def test_a_chunk_that_a_dtype_would_round_is_named(X):
    def some(rows, block_info=None):
        return rows.astype(np.float64 if block_info[0]["chunk-location"][0] == 2 else np.float32)

    lazy = da.from_array(X, chunks=(100, D))
    mixed = lazy.map_blocks(some, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    words = (
        r"chunk 2 of X is computed in float64, but X says .* float32; pass X.astype\('float64'\)"
    )
    with pytest.raises(ValueError, match=words):
        subsel.greedi(mixed, K, partitions=3)
    exact = X.astype(np.float32).astype(np.float64)
    exact[200:300] = X[200:300]
    expected = subsel.greedi(exact, K, partitions=3, random_state=0)
    told = lazy.map_blocks(some, dtype=np.float64, meta=np.empty((0, 0)))
    for cured in (mixed.astype("float64"), told):
        assert_same(expected, subsel.greedi(cured, K, partitions=3, random_state=0))


@pytest.mark.parametrize("rows", [slice(None), slice(None, None, -1), slice(0, None, 2)], ids=str)
def test_a_mapped_file_that_was_cut_short_is_named(X, tmp_path, rows):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")[rows]
    os.truncate(tmp_path / "x.npy", 3000)
    with pytest.raises(ValueError, match=r"X's file .*x\.npy has 3000 bytes, .* cut short"):
        subsel.greedi(mapped, K, partitions=3)
    still = mapped[-20:] if rows.step == -1 else mapped[:20]
    assert len(subsel.greedi(still, K)) == K


@pytest.mark.parametrize("size", [0, 3000])
def test_a_mapped_file_that_is_another_one_on_a_worker_is_named(X, client, tmp_path, size):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    (tmp_path / "x.npy").unlink()  # what is mapped here lives on
    with pytest.raises(OSError, match=r"worker cannot map X's file .*x\.npy: .*No such file"):
        subsel.greedi(mapped, K, partitions=3)
    (tmp_path / "x.npy").write_bytes(bytes(size))
    with pytest.raises((OSError, ValueError), match=r"X's file .*x\.npy"):
        subsel.greedi(mapped, K, partitions=3)


def test_a_client_that_is_closed(X, cluster):
    client = distributed.Client(cluster)
    with client.as_current():
        client.close()
        with pytest.raises(ValueError, match="active Dask client is closed"):
            subsel.greedi(X, K)
    assert len(subsel.greedi(X, K)) == K  # there is none any more


def test_a_client_that_is_closed_meanwhile(X, cluster, monkeypatch):
    client = distributed.Client(cluster)
    finished = engines.Cluster.finished
    monkeypatch.setattr(
        engines.Cluster, "finished", lambda *some: client.close() or finished(*some)
    )
    with pytest.raises(RuntimeError, match="Dask client was closed"):
        subsel.greedi(X, K)
