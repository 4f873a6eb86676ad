"""Several processes: the same as one, but for rounding, and errors on all of them."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import two_ranks
from torchrun import TORCHRUN
from two_ranks import SAME_AS_ONE, extracted, make_net, outcome, rounds, run

from subsel.defense.augment import flip_and_crop
from subsel.defense.parallel import Ranks
from subsel.defense.training import seeded

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="a torch without torch.distributed"
)


@pytest.fixture(scope="module")
def environment():
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def ended_well(command, environment):
    """What a command printed that has to end with status 0."""
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, environment):
    """What two ranks came to, in each of the cases."""
    out = tmp_path_factory.mktemp("ranks")
    run(epochs=2, checkpoint=out / "one.pt")
    ended_well([*TORCHRUN, two_ranks.__file__, str(out)], environment)
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def assert_same(a, b, *, exact):
    """Nested results, with some room for rounding in floats if not exact."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y, exact=exact)
    elif isinstance(a, torch.Tensor | np.ndarray):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-9, "atol": 1e-12}
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)
    else:
        assert a == (b if exact or a is None else pytest.approx(b, rel=1e-9))


@pytest.mark.parametrize("name", SAME_AS_ONE)
def test_two_ranks_train_what_one_trains(ranks, name):
    alone = SAME_AS_ONE[name]()
    assert name == "undefended" or len(alone.kept) < len(alone.defense._labels)
    assert_same(ranks[0][name], ranks[1][name], exact=True)
    assert_same(ranks[0][name], outcome(alone), exact=False)


def test_equal_gradients_give_equal_rounds_bit_for_bit(ranks):
    for got in ranks:
        assert_same(got["rounds"], rounds(None), exact=True)


def test_shared_extraction_is_that_of_one_bit_for_bit(ranks):
    for got in ranks:
        assert_same(got["extracted"], extracted(None), exact=True)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed in Linux only")
def test_no_thread_of_gloo_outlives_the_group(ranks):
    for got in ranks:
        assert got["threads"]
        assert not [name for name in got["threads"] if "gloo" in name]


def test_ranks_that_mix_their_own_parts_stay_together(ranks):
    assert_same(ranks[0]["cutmix"], ranks[1]["cutmix"], exact=True)
    assert ranks[0]["cutmix"]["history"][0] != ranks[0]["fresh"]["history"][0]


def test_own_loop_agrees_on_what_is_kept(ranks):
    assert_same(ranks[0]["own loop"], ranks[1]["own loop"], exact=True)
    assert 0 < len(ranks[0]["own loop"][0]) < two_ranks.N


def test_recorded_logits_are_brought_together(ranks):
    for got in ranks:
        logits, labels = got["gathered logits"]
        assert torch.equal(logits, torch.eye(5))
        assert torch.equal(labels, torch.arange(5))


def test_weights_are_those_of_rank_0(ranks):
    for got in ranks:
        assert_same(got["other weights"], outcome(run(make_net(0), epochs=1)), exact=False)


def test_batchnorm_has_the_same_statistics_on_all_ranks(ranks):
    assert_same(ranks[0]["BatchNorm"], ranks[1]["BatchNorm"], exact=True)
    assert ranks[0]["BatchNorm"]["history"][-1]["test_accuracy"] > 0.6


def test_what_there_is_to_do_once_is_done_by_rank_0(ranks):
    assert [got["callback"] for got in ranks] == [2, 0]
    assert [got["saves"] for got in ranks] == [6, 0]
    assert ranks[0]["progress"].count("epoch 1, loss") == 1
    assert ranks[1]["progress"] == ""


def test_resumes_bit_for_bit_on_as_many_ranks_and_closely_on_others(ranks, tmp_path):
    for got in ranks:
        assert_same(got["resumed"], got["whole"], exact=True)
        assert_same(got["from one"], outcome(run()), exact=False)


def test_leaves_an_ordinary_model(ranks):
    assert [got["afterwards"] for got in ranks] == [0, 1]


def test_ranks_draw_differently_where_they_have_to(ranks):
    draws = [got["draws"] for got in ranks]
    assert len({value for of_rank in draws for pair in of_rank for value in pair}) == (
        2 * sum(map(len, draws))
    )


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "seed",
            r"differ in batch_size \(32 on rank 0, 33 on rank 1\); seed \(0 .*, 1 on rank 1\)",
        ),
        ("data", r"ValueError: all ranks .* differ in dataset \('323 examples \w+' on rank 0, "),
        ("length", r"dataset \('323 examples .* '324 examples"),
        ("epic", r"differ in defense \(.*subset_size=0\.2.*subset_size=0\.3"),
        ("no test", r"differ in test \(None on rank 0"),
        ("model", r"differ in model \({'1\.weight': \(12, 64\)"),
        ("resume", r"differ in epochs done \(0 on rank 0, 2 on rank 1\); kept"),
        ("given gradients", r"differ in gradients \("),
        ("not finite", r"ValueError: the model's logits are not finite for 1 example \(321\)$"),
        ("loss", r"FloatingPointError: the loss is not finite in epoch 0"),
        ("callback fails", r"OSError: the disk is full$"),
        ("wrapped", r"TypeError: give the model itself, not a DistributedDataParallel"),
    ],
)
def test_errors_are_raised_on_every_rank(ranks, case, message):
    for got in ranks:
        assert re.search(message, got[case])


class TestDealing:
    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    def test_parts_of_a_batch(self, size):
        for n in range(1, 30):
            parts = [fake(rank, size).part(n) for rank in range(size)]
            covered = [i for part in parts if part.own for i in range(n)[part.rows]]
            assert covered == list(range(n))
            assert all(len(range(n)[part.rows]) >= min(2, n) for part in parts)
            assert [part.own for part in parts if part.own] == [
                len(range(n)[part.rows]) for part in parts if part.own
            ]
            # The mean over the ranks of weighted means is the mean over the batch.
            values = np.random.default_rng(n).random(n)
            mean = sum(part.weight * values[part.rows].mean() for part in parts) / size
            assert mean == pytest.approx(values.mean())
        assert fake(0, 1).part(7) == (slice(0, 7), 7, 7, 1.0)

    def test_blocks_and_classes(self):
        sizes = {0: 5, 1: 100, 2: 60, 3: 80, 4: 60}
        for size in (1, 2, 3, 7):
            everyone = [fake(rank, size) for rank in range(size)]
            for n in (0, 1, 5, 100):
                assert [i for r in everyone for i in range(n)[r.block(n)]] == list(range(n))
            assert sorted(c for r in everyone for c in r.dealt(sizes)) == list(sizes)
        assert [fake(rank, 2).dealt(sizes) for rank in (0, 1)] == [[1, 4], [3, 2, 0]]

    def test_augmentation_of_a_part_is_that_of_the_batch(self):
        images = torch.arange(7 * 64.0).reshape(7, 1, 8, 8)
        generators = [torch.Generator().manual_seed(1) for _ in range(2)]
        whole = flip_and_crop(images, generators[0])
        part = flip_and_crop(images[2:5], generators[1], batch=(2, 7))
        assert torch.equal(whole[2:5], part)
        assert torch.equal(generators[0].get_state(), generators[1].get_state())

    def test_ranks_share_the_order_and_nothing_else(self):
        draws = []
        for rank in range(3):
            with seeded(0, 1, torch.device("cpu"), rank) as generator:
                draws.append((torch.rand((), generator=generator).item(), torch.rand(()).item()))
        assert len({order for order, _ in draws}) == 1
        assert len({own for _, own in draws}) == 3


def fake(rank, size):
    ranks = Ranks()
    ranks.rank, ranks.size = rank, size
    return ranks


def test_torchrun_without_a_process_group_is_warned_of(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.warns(
        RuntimeWarning, match="every rank trains the whole model on its own"
    ) as caught:
        run(epochs=1)
    assert "two_ranks" in caught[0].filename
    monkeypatch.setenv("WORLD_SIZE", "1")
    run(epochs=1)


def test_a_killed_rank_ends_the_command_which_resumes(tmp_path, environment):
    pytest.importorskip("sklearn")
    out = tmp_path / "run"
    command = [*TORCHRUN, "-m", "subsel.defense.train", "--dataset", "digits", "--device", "cpu"]
    command += ["--no-augment", "--batch-size", "256", "--lr", "0.05", "--warmup", "1"]
    command += ["--interval", "1", "--stop", "3", "--out", str(out)]
    with open(tmp_path / "log", "w") as log:
        launcher = subprocess.Popen(
            [*command, "--epochs", "100000"], env=environment, stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 180
        while not (out / "metrics.jsonl").exists() and launcher.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.1)
        workers = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, check=True
        )
        os.kill(int(workers.stdout.split()[-1]), signal.SIGKILL)
        assert launcher.wait(120) != 0
    finally:
        launcher.kill()
        launcher.wait()
    done = len((out / "metrics.jsonl").read_text().splitlines())
    printed = ended_well([*command, "--epochs", str(done + 3), "--resume"], environment)
    assert printed.count("test accuracy: ") == 1
    assert len((out / "metrics.jsonl").read_text().splitlines()) == done + 3
    assert (out / "dropped.png").exists()
    assert not list(out.glob(".*"))
