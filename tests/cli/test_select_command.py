"""`subsel select`: from every format the rows that `select` chooses from the same NumPy array."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
import zarr

import subsel
from subsel import cli, coreset
from subsel.cli import formats, job, main, select, writing
from subsel.distributed import greedi
from subsel.objectives import BY_NAME

N, D = 60, 3
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
CLASSES = np.arange(N) % 3
NAMES = np.array(["x", "b", "c"])[CLASSES]
COSTS = 1.0 + np.arange(N) % 5
FIXED = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), D)
OTHERS = {"label": NAMES.tolist(), "cost": COSTS, "name": [f"n{i}" for i in range(N)]}
WIDE = pa.table({**{c: X[:, i] for i, c in enumerate("abc")}, **OTHERS})
DOUBLE = pa.table({**{c: X[:, i].astype(float) for i, c in enumerate("abc")}, **OTHERS})
TALL = pa.table({"v": FIXED, **OTHERS})
LISTS = pa.table({"v": pa.array(X.tolist(), pa.list_(pa.float32())), **OTHERS})


def parts(path):
    path.mkdir()
    pa.parquet.write_table(TALL[:25], path / "part-0.parquet", row_group_size=10)
    pa.parquet.write_table(TALL[25:], path / "part-1.parquet")


def stream(path):
    with pa.ipc.new_stream(path, TALL.schema) as file:
        file.write_table(TALL, max_chunksize=17)


def zarr_group(path):
    group = zarr.open_group(path, mode="w")
    for name, array in {"v": X, "label": CLASSES, "cost": COSTS, "name": np.arange(N)}.items():
        chunks = (16, *array.shape[1:])
        group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=chunks)[:] = array


FORMATS = {
    "wide.parquet": lambda path: pa.parquet.write_table(WIDE, path, row_group_size=16),
    "fixed.parquet": lambda path: pa.parquet.write_table(TALL, path),
    "lists.parquet": lambda path: pa.parquet.write_table(LISTS, path),
    "folder": parts,
    "tall.feather": lambda path: pa.feather.write_feather(TALL, path, chunksize=16),
    "stream.arrow": stream,
    "wide.csv": lambda path: pa.csv.write_csv(DOUBLE, path),
    "wide.tsv": lambda path: pa.csv.write_csv(DOUBLE, path, pa.csv.WriteOptions(delimiter="\t")),
    "arrays.npz": lambda path: np.savez(
        path, v=X, label=NAMES, cost=COSTS, name=np.array(OTHERS["name"])
    ),
    "group.zarr": zarr_group,
}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(formats, "ROWS", 16)


def run(*arguments):
    """The command's exit status."""
    return main(["select", *map(str, arguments)])


def chosen(tmp_path, *arguments):
    """Rows that the command selects."""
    out = tmp_path / "chosen.npy"
    assert run(*arguments, "--out", out, "--quiet") == 0
    return np.load(out).tolist()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(tmp_path, name):
    path = tmp_path / name
    FORMATS[name](path)
    dtype = np.float64 if name.endswith("sv") else np.float32
    features = ["--features", "a:c" if "wide" in name else "v"]
    right = subsel.select(X.astype(dtype), 6, labels=CLASSES if "zarr" in name else NAMES)
    out = tmp_path / "chosen.csv"
    options = ["--by", "label", "--budget", 6, "--id", "name", "--out", out, "--quiet"]
    assert run(path, *features, *options) == 0
    table = pa.csv.read_csv(out)
    assert table.column_names == ["row", "rank", "gain", "size", "name"]
    assert table["row"].to_pylist() == right.indices.tolist()
    assert table["rank"].to_pylist() == list(range(1, 7))
    assert table["gain"].to_pylist() == right.gains.tolist()
    assert table["size"].to_pylist() == right.sizes.tolist()
    names = [i if "zarr" in name else f"n{i}" for i in right.indices]
    assert table["name"].to_pylist() == names
    wanted = subsel.select(X.astype(dtype), 20.0, costs=COSTS).indices.tolist()
    assert chosen(tmp_path, path, *features, "--costs", "cost", "--budget", 20) == wanted


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, X)
    return path


def test_npy_with_classes_in_another_file(tmp_path, file):
    np.save(tmp_path / "classes.npy", CLASSES)
    right = subsel.select(X, 0.1, labels=CLASSES).indices.tolist()
    assert chosen(tmp_path, file, "--by", tmp_path / "classes.npy", "--budget", "10%") == right
    lines = tmp_path / "classes.csv"
    lines.write_text("\n".join(["class", *NAMES]))
    right = subsel.select(X, 0.1, labels=NAMES).indices.tolist()
    assert chosen(tmp_path, file, "--by", lines, "--budget", "10%") == right


def test_options_of_the_search(tmp_path, file):
    cases = {
        ("--metric", "cosine", "--budget", "5"): {"budget": 5, "metric": "cosine"},
        ("--objective", "graph_cut", "--budget", "5"): {"budget": 5, "objective": "graph_cut"},
        ("--coverage", "0.9"): {"coverage": 0.9},
        ("--coverage", "90%", "--budget", "3"): {"coverage": 0.9, "budget": 3},
        ("--min-distance", "2"): {"min_distance": 2.0},
        ("--budget", "100%"): {"budget": N},
        ("--budget", "7.5%"): {"budget": 0.075},
    }
    for options, arguments in cases.items():
        assert chosen(tmp_path, file, *options) == subsel.select(X, **arguments).indices.tolist()


def test_given_and_excluded(tmp_path, file):
    first, lines = tmp_path / "first.parquet", tmp_path / "lines.txt"
    assert run(file, "--budget", 4, "--out", first, "--quiet") == 0
    given = subsel.select(X, 4).indices
    lines.write_text("7\n9\n")
    right = subsel.select(X, 5, given=given, exclude=[7, 9])
    options = ["--given", first, "--exclude", lines, "--budget", 5]
    assert chosen(tmp_path, file, *options) == right.indices.tolist()
    mask = np.zeros(N, bool)
    mask[given] = True
    np.save(tmp_path / "mask.npy", mask)
    options[1] = tmp_path / "mask.npy"
    assert chosen(tmp_path, file, *options) == right.indices.tolist()


def test_partitions(tmp_path, file, capsys, caplog, monkeypatch):
    right = greedi(X, 4, partitions=3, random_state=5).indices.tolist()
    assert chosen(tmp_path, file, "--budget", 4, "--partitions", 3, "--seed", 5) == right
    monkeypatch.setattr(coreset, "LARGE", N // 2)
    right = greedi(X, 4, sample=N, partitions=1, random_state=0).indices.tolist()
    assert chosen(tmp_path, file, "--budget", 4) == right
    assert run(file, "--budget", 4, "--out", tmp_path / "c.npy") == 0
    assert "searched features: 60 of 60 rows (--partitions 1" in capsys.readouterr().err
    assert "searching 60 of 60 rows, and evaluating" in caplog.text
    for objective in ("saturated_coverage", "log_determinant"):
        right = subsel.select(
            X, 4, objective=objective, method="auto", random_state=0
        ).indices.tolist()
        assert chosen(tmp_path, file, "--budget", 4, "--objective", objective) == right
    right = subsel.select(X, 4).indices.tolist()
    assert chosen(tmp_path, file, "--budget", 4, "--partitions", 1) == right


def test_what_is_larger_than_memory_is_put_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "available_memory", lambda: 1)
    path = tmp_path / "wide.csv"
    pa.csv.write_csv(DOUBLE, path)
    seen = []
    monkeypatch.setattr(subsel, "greedi", lambda X, *a, **o: seen.append(X) or greedi(X, *a, **o))
    found = chosen(tmp_path, path, "--features", "a:c", "--budget", 4, "--partitions", 2)
    right = greedi(X.astype(float), 4, partitions=2, random_state=0)
    assert found == right.indices.tolist()
    assert isinstance(seen[0], np.memmap)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chosen.npy", "wide.csv"]


@pytest.mark.parametrize("metric", job.METRICS)
def test_assignments(tmp_path, metric):
    bits = metric in ("jaccard", "tanimoto")
    rows = (X > 0).astype(np.float32) if bits else np.round(X, 1)
    rows[[3, 7]] = 0  # no direction: alike to each other, and to nothing else
    np.save(tmp_path / "rows.npy", rows)
    options = ["--metric", metric, "--budget", 4, "--assignments", tmp_path / "all.parquet"]
    chosen(tmp_path, tmp_path / "rows.npy", *options)
    right = subsel.select(rows, 4, metric=metric)
    table = pa.parquet.read_table(tmp_path / "all.parquet")
    assert table["row"].to_pylist() == list(range(len(rows)))
    assert table["representative"].to_pylist() == right.indices[right.assignment].tolist()
    _, near = subsel.assign(rows, rows[right.indices], metric)
    sign = -1 if metric in ("euclidean", "manhattan", "hamming") else 1
    np.testing.assert_allclose(table["similarity"], sign * near, rtol=1e-5, atol=1e-6)


def test_assignments_beside_given_rows(tmp_path, file):
    (tmp_path / "given.txt").write_text("0\n1\n2\n")
    options = ["--budget", 2, "--given", tmp_path / "given.txt"]
    chosen(tmp_path, file, *options, "--assignments", tmp_path / "all.npy")
    right = subsel.select(X, 2, given=[0, 1, 2])
    wanted = np.where(right.assignment < 0, -1, right.indices[right.assignment])
    assert np.load(tmp_path / "all.npy").tolist() == wanted.tolist()


def test_plot(tmp_path, file):
    picture = tmp_path / "curve.png"
    chosen(tmp_path, file, "--budget", 4, "--plot", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_is_said(tmp_path, file, capsys):
    assert run(file, "--budget", 4, "--out", tmp_path / "c.parquet") == 0
    said = capsys.readouterr().err
    for part in ("features are 'array'", "from 60 rows of 3 numbers", "selected 4 of 60", "wrote"):
        assert part in said
    assert run(file, "--budget", 4, "--out", tmp_path / "c.parquet", "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def refused(capsys, *arguments, status=1):
    if status == 2:
        with pytest.raises(SystemExit, match=r"^2$"):
            run(*arguments)
    else:
        assert run(*arguments) == status
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "many"], "not 'many'"),
        (["--budget", "0.01"], "for a part of the rows write 1%"),
        (["--budget", "120%"], "at most 100%"),
        ([], "--budget, --coverage or --min-distance"),
        (["--costs", "cost"], "--budget, --coverage or"),
        (["--budget", "1%", "--costs", "cost"], "--costs needs a --budget that is a number"),
        (["--budget", "2", "--by", "label", "--coverage", "0.9"], "--by and --coverage cannot"),
        (["--budget", "2", "--by", "label", "--objective", "set_cover"], "not set_cover"),
        (["--budget", "2", "--partitions", "2", "--min-distance", "1"], "with --min-distance"),
        (["--budget", "2", "--partitions", "2", "--metric", "jaccard"], "one of euclidean"),
        (["--budget", "2", "--partitions", "0"], "whole number of at least 1"),
        (["--budget", "2", "--partitions", "x"], "whole number of at least 1, not 'x'"),
        (["--budget", "2", "--seed", "-1"], "whole number of at least 0, not '-1'"),
        (["--coverage", "2"], "above 0 and at most 1"),
        (["--coverage", "most"], "above 0 and at most 1, not 'most'"),
        (["--min-distance", "0"], "must be a number above 0, not '0'"),
        (
            ["--budget", "2", "--objective", "graph_cut", "--assignments", "a.csv"],
            "--assignments needs the objective",
        ),
    ],
)
def test_usage(tmp_path, capsys, options, message):
    said = refused(capsys, tmp_path / "no.csv", *options, "--out", tmp_path / "c.npy", status=2)
    assert message in said
    assert said.startswith("subsel select: error: ")


def test_files_that_cannot_be_used(tmp_path, capsys, monkeypatch):
    wide, out = tmp_path / "wide.parquet", tmp_path / "chosen.csv"
    pa.parquet.write_table(WIDE, wide)
    holes = X.copy()
    holes[17, 1] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    pa.parquet.write_table(pa.table({"v": [[1.0, 2.0], [3.0]]}), tmp_path / "ragged.parquet")
    pa.parquet.write_table(pa.table({"v": [1.0, None]}), tmp_path / "null.parquet")
    pa.parquet.write_table(TALL.append_column("w", FIXED), tmp_path / "two.parquet")
    pa.parquet.write_table(pa.table({"t": ["a"]}), tmp_path / "text.parquet")
    (tmp_path / "text.csv").write_text("a,b\n1,2\n3,x\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "notes.md").write_text("")
    (tmp_path / "classes.csv").write_text("a,c\n1,x\n2,\n3,y\n")
    (tmp_path / "none.csv").write_text("a,b\n")
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n3,4\n")
    (tmp_path / "commas.csv").write_text("a;b\n1,5;2,5\n")
    (tmp_path / "latin.csv").write_bytes("é,b\n1,2\n".encode("latin-1"))
    (tmp_path / "wide.csv").write_text(" ".join(["a,b\n1,2\n"]), encoding="utf-16")
    pa.parquet.write_table(pa.table([[1.0], [2.0]], names=["a", "a"]), tmp_path / "twice.parquet")
    (tmp_path / "mixed").mkdir()
    for name, labels in {"0": ["x"], "1": [1]}.items():
        table = pa.table({"a": [1.0], "label": labels})
        pa.parquet.write_table(table, tmp_path / "mixed" / f"{name}.parquet")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "bad.npz").write_bytes(b"PK")
    (tmp_path / "none.zarr").mkdir()
    np.save(tmp_path / "no_columns.npy", np.ones((5, 0)))
    np.save(tmp_path / "images.npy", np.ones((2, 2, 2)))
    np.save(tmp_path / "few.npy", CLASSES[:5])
    cases = {
        ("no.npy",): "no.npy does not exist",
        ("notes.md",): "has an unknown ending; known are .npy",
        ("nothing",): "is a folder without Parquet, Arrow or Zarr files",
        ("wide.parquet", "--by", "lable"): "no column 'lable'; it has 'a', 'b', 'c', 'label'",
        ("wide.parquet", "--features", "a:z"): "no column 'z'",
        ("wide.parquet", "--features", "c:a"): "column 'a' comes before 'c'",
        ("wide.parquet", "--features", "a,name"): "column 'name' has string; features must be",
        ("wide.parquet", "--by", "cost"): "column 'cost' has double; classes must be whole",
        ("wide.parquet", "--by", tmp_path / "few.npy"): "few.npy has 5 rows, but",
        ("wide.parquet", "--given", wide): "must have one column, or one named 'row'; it has 'a'",
        ("two.parquet",): "several columns of vectors, 'v', 'w': name one with --features",
        ("text.parquet",): "no column of numbers or vectors; it has 't' (string)",
        ("images.npy",): "it has 'array' (float64 of shape (2, 2, 2))",
        ("classes.csv", "--by", "c"): "column 'c' has no class in row 1",
        ("holes.npy",): "column 'array' is nan in row 17, entry 1; it must be finite",
        ("null.parquet",): "null.parquet: column 'v' has a missing value in row 1",
        ("ragged.parquet",): "column 'v': the vector of row 1 has 1 numbers, not 2",
        (
            "text.csv",
            "--features",
            "a:b",
        ): "text.csv cannot be read: In CSV column #1: Row #3: CSV conversion",
        ("empty.csv",): "empty.csv",
        ("none.csv",): "none.csv has no rows, or only empty ones",
        ("twice.csv",): "twice.csv has several columns named 'a': rename them",
        ("twice.parquet",): "twice.parquet has several columns named 'a': rename them",
        ("commas.csv",): "'b' (string); a number in a text file must be written as 1.5",
        ("latin.csv",): "latin.csv is not text in UTF-8: convert it first",
        ("wide.csv",): "wide.csv is not text in UTF-8: convert it first",
        ("mixed", "--by", "label"): "'label' must have one type in all parts, not string and int64",
        ("wide.parquet", "--features", "a,b,a"): "--features a,b,a names 'a' more than once",
        ("empty.npy",): "empty.npy is not a file of numpy.save",
        ("bad.npz",): "bad.npz cannot be read: File is not a zip file",
        ("none.zarr",): "none.zarr",
        ("no_columns.npy",): "no_columns.npy: the vectors of 'array' have no numbers",
        ("damaged.parquet",): "damaged.parquet",
    }
    for (name, *options), message in cases.items():
        said = refused(capsys, tmp_path / name, *options, "--budget", 2, "--out", out)
        assert said.startswith("subsel: error: ")
        assert message in said
        assert not out.exists()
    for place, message in {"no/c.csv": "does not exist", "c.xlsx": "must end in"}.items():
        said = refused(capsys, wide, "--budget", 2, "--out", tmp_path / place)
        assert message in said
    said = refused(capsys, wide, "--budget", 2, "--out", wide.with_suffix(".parquet"))
    assert "cannot be written: it is the input" in said
    given = tmp_path / "given.csv"
    given.write_text("row\n1\n")
    said = refused(capsys, wide, "--budget", 2, "--out", given, "--given", given)
    assert "cannot be written: it is the input" in said
    assert given.read_text() == "row\n1\n"
    said = refused(capsys, wide, "--budget", 2, "--out", out, "--assignments", out)
    assert "must be different files" in said
    said = refused(capsys, wide, "--budget", 99, "--out", out)
    assert "--budget must be in 1..60, the number of rows, not 99" in said
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    said = refused(capsys, wide, "--budget", 2, "--out", out)
    assert 'needs the package pyarrow: pip install "subsel[tables]"' in said


def test_a_csv_file_without_a_header(tmp_path):
    np.savetxt(tmp_path / "rows.csv", X.astype(float), delimiter=",", fmt="%.18g")
    right = subsel.select(X.astype(float), 5).indices.tolist()
    assert chosen(tmp_path, tmp_path / "rows.csv", "--budget", 5) == right


def test_a_csv_file_without_a_header_and_with_text(tmp_path):
    lines = [",".join([*map(repr, row), name]) for row, name in zip(X.tolist(), NAMES, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    right = subsel.select(X.astype(float), 6, labels=NAMES).indices.tolist()
    assert chosen(tmp_path, tmp_path / "rows.csv", "--by", "f3", "--budget", 6) == right


@pytest.mark.parametrize("codec", ["gzip", "bz2", "zstd"])
def test_compressed_text(tmp_path, codec):
    path = tmp_path / f"wide.csv.{ {'gzip': 'gz', 'bz2': 'bz2', 'zstd': 'zst'}[codec] }"
    with pa.CompressedOutputStream(str(path), codec) as file:
        pa.csv.write_csv(DOUBLE, file)
    right = subsel.select(X.astype(float), 6, labels=NAMES).indices.tolist()
    options = ["--features", "a:c", "--by", "label", "--budget", 6]
    assert chosen(tmp_path, path, *options) == right


def test_row_names_of_pandas_are_no_features(tmp_path):
    frame = DOUBLE.select(["a", "b", "c"]).to_pandas()
    frame.to_csv(tmp_path / "rows.csv")
    frame.index += 5
    frame.to_parquet(tmp_path / "rows.parquet")
    right = subsel.select(X.astype(float), 4).indices.tolist()
    for name in ("rows.csv", "rows.parquet"):
        assert chosen(tmp_path, tmp_path / name, "--budget", 4) == right


def test_truth_values_in_a_csv_file_are_numbers(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,true\n2,false\n9,true\n")
    right = subsel.select([[1.0, 1], [2, 0], [9, 1]], 2).indices.tolist()
    assert chosen(tmp_path, tmp_path / "rows.csv", "--budget", 2) == right


def test_texts_in_every_type_of_arrow(tmp_path):
    right = subsel.select(X, 6, labels=NAMES).indices.tolist()
    for dtype in (pa.string(), pa.large_string(), pa.string_view()):
        table = TALL.select(["v"]).append_column("label", pa.array(OTHERS["label"], dtype))
        table = table.append_column("cost", pa.array(map(str, COSTS), dtype))
        with pa.ipc.new_file(tmp_path / "rows.arrow", table.schema) as file:
            file.write_table(table)
        options = [tmp_path / "rows.arrow", "--id", "label", "--budget", 6]
        assert chosen(tmp_path, *options, "--by", "label") == right
        out = tmp_path / "chosen.csv"
        assert run(*options, "--costs", "cost", "--out", out, "--quiet") == 0
        rows = subsel.select(X, 6.0, costs=COSTS).indices
        assert pa.csv.read_csv(out)["label"].to_pylist() == NAMES[rows].tolist()


def test_one_column_of_numbers_and_other_delimiters(tmp_path):
    np.save(tmp_path / "one.npy", X[:, 0])
    right = subsel.select(X[:, :1], 4).indices.tolist()
    assert chosen(tmp_path, tmp_path / "one.npy", "--budget", 4) == right
    semicolons = pa.csv.WriteOptions(delimiter=";")
    pa.csv.write_csv(DOUBLE.select(["a", "b"]), tmp_path / "two.txt", semicolons)
    right = subsel.select(X[:, :2].astype(float), 4).indices.tolist()
    assert chosen(tmp_path, tmp_path / "two.txt", "--budget", 4) == right


def test_a_traceback_on_demand(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBSEL_TRACEBACK", "1")
    with pytest.raises(formats.InputError):
        run(tmp_path / "no.npy", "--budget", 4, "--out", tmp_path / "c.npy")


def test_numbers_that_the_first_lines_of_a_csv_file_do_not_show(tmp_path, monkeypatch):
    values = np.r_[np.arange(300_000), 0.5][:, None]
    path = tmp_path / "long.csv"
    path.write_text("\n".join(["a", *map(repr, values[:, 0].tolist())]).replace(".0\n", "\n"))
    monkeypatch.setattr(formats, "ROWS", 2**14)
    monkeypatch.setattr(formats, "BLOCK", 2**16)
    table = formats.open_table(path)
    from subsel.cli.reading import read

    np.testing.assert_array_equal(read(table, ["a"], [], show=False)[0], values)


def test_the_names_are_those_of_the_package():
    assert set(select.OBJECTIVES) == set(BY_NAME)
    for metric in job.METRICS:
        subsel.select((X > 0).astype(float), 2, metric=metric)


def test_a_scheduler(tmp_path, file):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        1, processes=False, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        options = ["--budget", 4, "--partitions", 2, "--scheduler", cluster.scheduler_address]
        found = chosen(tmp_path, file, *options)
    assert found == greedi(X, 4, partitions=2, random_state=0).indices.tolist()


def test_ctrl_c_while_modules_are_imported(tmp_path, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupted)
    assert run(tmp_path / "no.npy", "--budget", 2, "--out", tmp_path / "c.npy") == 130


def test_a_folder_with_the_name_of_a_column(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "label").mkdir()
    pa.parquet.write_table(TALL, "rows.parquet")
    assert run("rows.parquet", "--by", "label", "--budget", 3, "--out", "label/c.npy") == 0


def test_a_folder_that_cannot_be_written(tmp_path, file, capsys, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr(writing.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(job.Job, "_read", None)  # it is found out before anything is read
    said = refused(capsys, file, "--budget", 2, "--out", tmp_path / "c.npy")
    assert "c.npy cannot be written: Permission denied" in said


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ctrl_c(tmp_path):
    # Reading from a pipe that nobody writes to lasts until it is interrupted.
    code = (
        "import sys, numpy as np\n"
        "from subsel.cli import main, job\n"
        "def wait(*_, **__):\n"
        "    print('reading', flush=True)\n"
        "    import time; time.sleep(60)\n"
        "job.reading.read = wait\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    np.save(tmp_path / "rows.npy", X)
    process = subprocess.Popen(
        [
            sys.executable, "-c", code, "select", tmp_path / "rows.npy", "--budget", "2",
            "--out", tmp_path / "c.npy",
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.npy"]
