"""Training runs and their files under every fault that a user's machine can have.

After each fault either the old checkpoint or the new one is whole, and to go on from it gives the
same bits as a run that nothing happened to.  What is damaged, foreign or of another run is refused
in one sentence.
"""

import errno
import multiprocessing
import os
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import Faults, disk_broken, disk_full
from tiny import (
    EPOCHS,
    C,
    continued,
    continued_afresh,
    fingerprint,
    make_data,
    make_epic,
    make_net,
    trained,
    trained_afresh,
)
from torch import nn
from torch.utils.data import TensorDataset

from subsel.defense import checkpoint as checkpoints
from subsel.defense import last_layer_gradients
from subsel.defense.checkpoint import CheckpointError, packed, unpacked
from subsel.files import locked, remove_parts, write_whole

HERE = Path(__file__).parent
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """With one thread of torch results are the same to the last digit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run without faults: its checkpoint's bytes, and its fingerprint."""
    path = tmp_path_factory.mktemp("whole") / "run.pt"
    result = trained(checkpoint=path)
    return path.read_bytes(), fingerprint(result)


@pytest.fixture
def saved(finished, tmp_path):
    """A copy of that checkpoint, to be spoilt."""
    path = tmp_path / "run.pt"
    path.write_bytes(finished[0])
    return path


def epochs_in(path):
    """How many epochs a checkpoint has, which must be whole."""
    return len(unpacked(path.read_bytes(), str(path), torch.device("cpu"))["history"])


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


# Settings


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"lr": "fast"}, TypeError, "lr must be a number, not 'fast'"),
        ({"momentum": -1}, ValueError, "momentum must be 0 or greater, and finite, not -1"),
        (
            {"weight_decay": float("nan")},
            ValueError,
            "weight_decay must be 0 or greater, and finite",
        ),
        ({"drops": [2, -1]}, ValueError, "drops: each epoch must be at least 0, not -1"),
        ({"drops": [2.5]}, TypeError, "drops: each epoch must be a count"),
        ({"drops": 2}, TypeError, "drops must be a sequence of epochs, not 2"),
        ({"seed": None}, TypeError, "seed must be a count"),
        ({"device": "gpu"}, ValueError, 'device must be "cpu", "cuda", "cuda:1" or the like'),
        ({"device": "cuda:99"}, ValueError, "device 'cuda:99' is not available: "),
        ({"device": 1.5}, ValueError, 'device must be "cpu"'),
    ],
)
def test_settings_are_checked_before_anything_is_written(tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        trained(checkpoint=tmp_path / "run.pt", **changes)
    assert files_in(tmp_path) == []


def test_gradients_on_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="device 'cuda:99' is not available"):
        last_layer_gradients(make_net(), make_data(), device="cuda:99")


# Damage


def refused(path, match, error=CheckpointError, **changes):
    """Resuming fails in one sentence that names the file, and changes nothing."""
    for scenario in ("scratch", "finetune") if not changes else ("scratch",):
        refused_in(scenario, path, match, error, changes)


def refused_in(scenario, path, match, error, changes):
    net, epic = make_net(5), make_epic()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(error, match=match) as caught:
        trained(net, resume=path, **{"defense": epic, "scenario": scenario, **changes})
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not epic.history
    text = str(caught.value)
    assert str(path) in text
    assert "weights_only" not in text
    assert "\n" not in text


def flipped(content, place, bit=0):
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def test_a_flipped_bit_is_found_wherever_it_is(finished):
    content, cpu = finished[0], torch.device("cpu")
    places = {*range(0, len(content), 97), *range(200), *range(len(content) - 200, len(content))}
    draw = random.Random(0)
    for place in places:
        with pytest.raises(CheckpointError, match=r"file is (damaged|not a checkpoint)"):
            unpacked(flipped(content, place, draw.randrange(8)), "file", cpu)


def places_of_every_kind(content):
    """One place in each part of a checkpoint file, by name."""
    record = content.index(b"/data/0")
    with zipfile.ZipFile(checkpoints.io.BytesIO(content)) as archive:
        directory = archive.start_dir
        pickled = next(i for i in archive.infolist() if i.filename.endswith("data.pkl"))
        state = archive.read(pickled)
    return {
        "a local header": 2,
        "the pickle": content.index(state[:40]) + 20,
        "a weight": content.index(b"PK", record + 2) - 16 - 24,
        "a record's name": record + 6,
        "the directory": directory + 30,
        "the end record": content.rindex(b"PK\5\6") + 12,
        "the comment's length": content.rindex(b"PK\5\6") + 20,
        "the mark": len(content) - 80,
        "the checksum": len(content) - 10,
    }


def test_a_flipped_bit_is_refused_by_train(saved):
    content = saved.read_bytes()
    for place in places_of_every_kind(content).values():
        saved.write_bytes(flipped(content, place, 6))
        refused(saved, r"is damaged: its content does not match|not a checkpoint of subsel")


def test_holes_and_cuts_are_refused(saved):
    content = saved.read_bytes()
    n = len(content)
    for start in range(0, n, n // 7):
        hole = bytes(min(512, n - start))
        saved.write_bytes(content[:start] + hole + content[start + len(hole) :])
        refused(saved, "is damaged|not a checkpoint")
    for length in (0, 1, 4, n // 2, n - 64, n - 1):
        saved.write_bytes(content[:length])
        refused(saved, "is not a checkpoint of subsel.defense.train, or not the whole of one")
    saved.write_bytes(content + b"\0")
    refused(saved, "is not a checkpoint")


class Harmful:
    """What a pickle that is no state could do."""

    def __reduce__(self):
        return os.system, ("touch harm",)


def foreign_files(folder):
    """Files that are no checkpoints, by a name."""
    buffer = checkpoints.io.BytesIO()
    torch.save(make_net(), buffer)
    harmful = checkpoints.io.BytesIO()
    torch.save({"model": Harmful()}, harmful)
    numbers = checkpoints.io.BytesIO()
    np.save(numbers, np.arange(100))
    archive = checkpoints.io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("letter.txt", "hello")
    script = folder / "script.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), script)
    yield "a pickle", pickle.dumps(Harmful())
    yield "a model", buffer.getvalue()
    yield "a harmful state", harmful.getvalue()
    yield "an array", numbers.getvalue()
    yield "an archive", archive.getvalue()
    yield "a script", script.read_bytes()
    yield "text", b"hello\n" * 100
    yield "noise", random.Random(0).randbytes(5000)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_foreign_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "other.pt"
    for _, content in foreign_files(tmp_path):
        path.write_bytes(content)
        refused(path, "is not a checkpoint of subsel.defense.train")
    assert not Path("harm").exists()
    path.unlink()
    path.mkdir()
    refused(path, "there is no checkpoint", FileNotFoundError)


def test_a_checkpoint_of_something_else_is_refused(saved):
    state = torch.load(saved, weights_only=True)
    del state["optimizer"], state["logits"]
    saved.write_bytes(packed(state))
    refused(saved, "it lacks optimizer, logits$")
    saved.write_bytes(packed({"model": make_net()}))
    refused(saved, "cannot be read without running their code")


def test_a_checkpoint_of_another_model_is_refused(saved):
    state = torch.load(saved, weights_only=True)
    weight = state["model"].pop("4.weight")
    state["model"]["5.weight"] = weight
    state["model"]["0.bias"] = torch.zeros(9)
    saved.write_bytes(packed(state))
    refused_in(
        "scratch",
        saved,
        r"belongs to another model: it lacks 4\.weight; it has also 5\.weight; "
        r"its 0\.bias has the shape \(9,\), not \(8,\)$",
        CheckpointError,
        {},
    )


def test_pytorch_reads_a_checkpoint_as_ever(saved):
    state = torch.load(saved, weights_only=True)
    assert len(state["history"]) == EPOCHS
    assert torch.load(saved, weights_only=True, mmap=True).keys() == state.keys()
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"subsel checkpoint")


# Another run


def test_other_data_is_refused(saved):
    x, y = make_data()
    refused_data = {
        "one number": (x.index_put((torch.tensor(7), torch.tensor(2)), torch.tensor(0.5)), y),
        "one label": (x, y.index_put((torch.tensor(7),), (y[7] + 1) % C)),
        "another set": (make_data(1)[0], y),
        "another order": (x.flip(0), y.flip(0)),
    }
    for data in refused_data.values():
        for form in (data, TensorDataset(*data), Pairs(*data)):
            with pytest.raises(CheckpointError, match=r"run\.pt was made with other training data"):
                trained(make_net(), form, resume=saved, epochs=EPOCHS + 1)
    again = [
        fingerprint(trained(make_net(9), form, resume=saved, epochs=EPOCHS + 1))
        for form in ((x, y), (x.numpy(), y.numpy()), Pairs(x, y))
    ]
    assert len(set(again)) == 1


class Pairs(torch.utils.data.Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


def test_fewer_epochs_than_are_done_are_refused(saved):
    refused(saved, r"has 3 epochs done already: epochs must be at least 3, not 2$", epochs=2)


def test_another_defense_is_refused(saved):
    epic = make_epic(interval=2)
    refused(saved, "another defense: the state was saved with interval=1, now 2", defense=epic)


def test_settings_of_numpy_can_be_resumed(tmp_path):
    path = tmp_path / "run.pt"
    settings = {
        "lr": np.float64(0.05),
        "batch_size": np.int64(16),
        "drops": np.array([1]),
        "seed": np.int32(3),
        "momentum": np.float32(0.5),
    }
    whole = trained(**settings)
    trained(checkpoint=path, **settings, epochs=2)
    assert fingerprint(trained(resume=path, **settings)) == fingerprint(whole)


def test_a_state_that_could_not_be_read_again_is_refused_at_once(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return Harmful()

        def set_extra_state(self, state):
            pass

    path = tmp_path / "run.pt"
    with pytest.raises(CheckpointError, match="cannot be read without running their code"):
        trained(nn.Sequential(Odd(6, C)), checkpoint=path)
    assert files_in(tmp_path) == []


def test_the_checkpoint_of_an_earlier_run_is_kept(saved, finished, caplog):
    trained(checkpoint=saved, epochs=1, seed=4)
    assert files_in(saved.parent) == ["run-before.pt", "run.pt"]
    assert (saved.parent / "run-before.pt").read_bytes() == finished[0]
    assert epochs_in(saved) == 1
    assert "run.pt exists already" in caplog.text
    assert "run-before.pt" in caplog.text
    caplog.clear()
    trained(checkpoint=saved, resume=saved, epochs=2, seed=4)
    assert not caplog.text


def test_a_fresh_start_does_not_go_on_with_an_earlier_runs_judge(tmp_path):
    path = tmp_path / "run.pt"
    trained_afresh(checkpoint=path)
    wanted = fingerprint(trained_afresh(seed=2))

    class Stop(Exception):
        pass

    def stop(result):
        raise Stop

    with pytest.raises(Stop):
        trained_afresh(checkpoint=path, seed=2, callback=stop)
    assert not (tmp_path / "run-judge.pt").exists()
    assert epochs_in(tmp_path / "run-judge-before.pt") == EPOCHS
    assert fingerprint(trained_afresh(checkpoint=path, seed=2, resume=True)) == wanted


def test_a_fresh_start_goes_on_only_from_the_weights_that_it_began_with(tmp_path):
    path = tmp_path / "run.pt"
    whole = trained_afresh(checkpoint=path)
    settings = {"checkpoint": path, "resume": True}
    with pytest.raises(
        CheckpointError, match=r"run-core\.pt belongs to a run that began with other"
    ):
        trained_afresh(make_net(9), **settings)
    assert fingerprint(trained_afresh(**settings)) == fingerprint(whole)


# Two runs at once


def hold(path, ready, go_on):
    with locked(path):
        ready.set()
        go_on.wait(60)


def test_two_runs_do_not_write_one_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    context = multiprocessing.get_context("spawn")
    ready, go_on = context.Event(), context.Event()
    other = context.Process(target=hold, args=(path, ready, go_on))
    other.start()
    assert ready.wait(120)
    with pytest.raises(BlockingIOError, match=r"another run is writing .*run\.pt: wait until"):
        trained(checkpoint=path)
    with pytest.raises(BlockingIOError, match="another run is writing"):
        trained_afresh(checkpoint=path)
    assert files_in(tmp_path) == [".run.pt.lock"]
    other.kill()
    other.join()
    trained(checkpoint=path)
    assert files_in(tmp_path) == ["run.pt"]


def test_a_run_may_use_the_lock_that_it_holds(tmp_path):
    path = tmp_path / "run.pt"
    with locked(path):
        trained(checkpoint=path)
        assert files_in(tmp_path) == [".run.pt.lock", "run.pt"]
    assert files_in(tmp_path) == ["run.pt"]


def test_threads_do_not_share_a_lock(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = tmp_path / "run.pt"
    with locked(path), ThreadPoolExecutor(1) as pool:
        other = pool.submit(trained, checkpoint=path)
        with pytest.raises(BlockingIOError, match="another run is writing"):
            other.result()


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    trained(checkpoint=tmp_path / "run.pt")
    assert "run.pt cannot be locked here" in caplog.text
    assert files_in(tmp_path) == ["run.pt"]
    assert epochs_in(tmp_path / "run.pt") == EPOCHS


# Faults while files are written


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    path, other = tmp_path / "run.pt", tmp_path / "run2.pt"
    left = tmp_path / ".run.pt.123.part.pt"
    left.write_bytes(b"half")
    foreign = tmp_path / ".run2.pt.123.part.pt"
    foreign.write_bytes(b"half")
    trained(checkpoint=path, epochs=1)
    assert files_in(tmp_path) == [foreign.name, "run.pt"]
    remove_parts(other)
    assert files_in(tmp_path) == ["run.pt"]


@needs_proc
@pytest.mark.parametrize("fail", [disk_full, disk_broken])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_fault_at_any_file_operation_loses_no_epoch(tmp_path, finished, fail, earlier):
    wanted, n = finished[1], 0
    while True:
        n += 1
        folder = tmp_path / f"{n}"
        folder.mkdir()
        path = folder / "run.pt"
        if earlier:
            path.write_bytes(finished[0])
        done, training, net = [], [], make_net()
        net.register_forward_pre_hook(lambda net, _, to=training: to.append(net.training))
        with Faults(folder, n, fail).injected() as faults:
            try:
                trained(net, checkpoint=path, callback=lambda result, to=done: to.append(1))
            except OSError as error:
                check_error(error, path, fail, resumable=any(training))
        if faults.count < n:
            break
        assert not set(files_in(folder)) - {"run.pt", "run-before.pt"}
        found = epochs_in(path) if path.exists() else 0
        assert found in ({len(done), len(done) + 1} if any(training) else {0, EPOCHS})
        assert fingerprint(continued(path)) == wanted
        shutil.rmtree(folder)
    assert n > 7 * EPOCHS


def check_error(error, path, fail, *, resumable):
    text = str(error)
    assert str(path.parent) in text
    assert "\n" not in text
    assert error.errno == (errno.ENOSPC if fail is disk_full else errno.EIO)
    assert ("could not be written: disk full" in text) == (fail is disk_full)
    if resumable:
        assert f"to continue after the last whole epoch, use resume={str(path)!r}" in text
    else:
        assert "resume=" not in text


@needs_proc
def test_a_fault_in_a_fresh_start_loses_no_epoch(tmp_path):
    wanted = fingerprint(trained_afresh())
    draw = random.Random(0)
    with Faults(tmp_path).injected() as counted:
        trained_afresh(checkpoint=tmp_path / "count.pt")
    for n in sorted(draw.sample(range(1, counted.count + 1), 12)):
        folder = tmp_path / f"{n}"
        folder.mkdir()
        with Faults(folder, n).injected(), pytest.raises(OSError, match="disk full"):
            trained_afresh(checkpoint=folder / "run.pt")
        assert fingerprint(continued_afresh(folder / "run.pt")) == wanted
        assert files_in(folder) == ["run-core.pt", "run-judge.pt", "run.pt"]


def test_a_folder_that_is_deleted_during_a_run(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()

    def delete(result):
        shutil.rmtree(folder)

    with pytest.raises(FileNotFoundError) as caught:
        trained(checkpoint=folder / "run.pt", callback=delete)
    text = f"{folder / 'run.pt'} could not be written: the folder {folder} does not exist"
    assert str(caught.value).startswith(text)
    assert str(caught.value).endswith("there is no checkpoint to resume from")


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    path, order = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        info = os.fstat(descriptor)
        order.append(("fsync", info.st_ino))
        fsync(descriptor)

    def replaced(source, target):
        order.append(("replace", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_whole(path, "content")
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert order == [("fsync", file), ("replace", file), ("fsync", folder)]


def test_killed_at_random_moments_a_run_comes_to_the_same_bits():
    """More kills: python tests/trust/killed.py --kills 1000."""
    pytest.importorskip("sklearn")
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    finished = subprocess.run(
        [sys.executable, str(HERE / "killed.py"), "--kills", "10", "--seed", "0"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "all bit for bit as without" in finished.stdout
