"""Files that nobody should trust: each attack is refused, each valid set read, mutations survived.

What counts as a failure is said in tests/trust/files.py, which also runs longer.
"""

import os
import re
import signal
import sys
from itertools import chain

import pytest

from tests.trust.attacks import attacks
from tests.trust.corpus import valid

if sys.platform != "linux":
    pytest.skip("limits of memory are Linux's", allow_module_level=True)

from tests.trust.files import PLANTED, corpus, examine, mutated, mutations

# What the sentences say of those near misses that users bring, beside the file's name.
CURES = {
    "near misses: torch.save": r"zip archive, .*torch\.load\(path, weights_only=True\)",
    "near misses: torch.save of old": r"torch\.save\. .*torch\.load\(path, weights_only=True\)",
    "near misses: numpy.save": r"numpy\.save\. Load it with numpy\.load",
    "near misses: gzip": r"compressed by gzip\. Unpack it",
    "near misses: a web page": r"a web page",
    "near misses: Git LFS": r"git lfs pull",
    "near misses: nothing": r"it is empty",
    "near misses: bfloat16": r"BFloat16Storage: .*tensor\.float\(\)",
    "near misses: a parameter": r"_rebuild_parameter: .*tensor\.detach\(\)\.cpu\(\)\.numpy\(\)",
    "near misses: Image.open of JPEG": r"JpegImageFile: .*image\.convert\(\"RGB\"\)",
    "near misses: Image.open of PNG": r"PngImageFile: .*image\.convert\(\"RGB\"\)",
    "near misses: mode RGBA": r"mode 'RGBA': .*image\.convert\(\"RGB\"\)",
    "near misses: a file of the folder": r"give its folder",
    "near misses: setups as poisons": r"for a list of setups, use read_setups",
    "near misses: a name with a line break": r"refused os\.sys\\ntem\\r\\x1b\[2J",
    "image formats: PostScript": r"or not a JPEG",
    "image formats: one pixel": r"JPEG of 1 x 1",
    "amplified: one image ten thousand times": r"stored once, in full",
    "endless: a list that contains itself": r"contains itself",
    "freed memory: an array with a second state": r"second state",
    "freed memory: an image with a second state": r"second state",
    "freed memory: frombuffer of an array with a second state": r"not bytes",
    "beyond the end: sizes that wrap round": r"does not hold",
    "values: label nan": r"integers, got float64",
    "values: CIFAR label 1.7": r"integers, got float64",
}


@pytest.fixture(scope="module")
def outcome():
    return examine(chain(({"corpus": name} for name in corpus()), mutations(seed=0, seconds=8)))


def test_nothing_is_a_failure(outcome):
    assert outcome.failures == []
    assert sum(outcome.counts.values()) > len(corpus())  # some mutations as well


def test_valid_sets_are_read(outcome):
    assert {name: outcome.texts[name][0] for name in valid()} == dict.fromkeys(valid(), "read")


def test_attacks_are_refused(outcome):
    assert [name for name in attacks() if outcome.texts[name][0] != "refused"] == []


@pytest.mark.parametrize("name", CURES)
def test_the_sentence_says_what_it_is_and_what_to_do(outcome, name):
    assert re.search(CURES[name], outcome.texts[name][1])


def test_a_mutation_can_be_repeated():
    assert mutated(0, 17).files == mutated(0, 17).files
    assert mutated(0, 17).files != mutated(0, 18).files


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        ("planted crash", f"the process ended with -{int(signal.SIGABRT)}"),
        ("planted sleep", "endless"),
        ("planted deafness", "endless"),
        ("planted work", "slow"),
        ("planted memory", "MemoryError"),
        ("planted memory, swallowed", "memory"),
        ("planted error", "KeyError"),
        ("planted message", "no plain sentence"),
        ("planted chance", "two readings differ"),
        ("planted nonsense", "nonsense"),
    ],
)
def test_faults_are_found(found, planted, kind):
    assert found[planted][0] == f"failure: {kind}"


@pytest.fixture(scope="module")
def found():
    return examine({"planted": name} for name in PLANTED).texts


def test_deafness_is_told_from_sleep(found):
    assert found["planted sleep"][1] == "Ctrl-C ended it"
    assert "deaf" in found["planted deafness"][1]


def test_ctrl_c_ends_a_long_pickle(tmp_path):
    """The interrupt comes while a pickle of four hundred thousand instructions is read."""
    from subsel.defense.unpickling import restricted_load

    path = tmp_path / "long.pickle"
    path.write_bytes(b"\x80\x02" + b"N0" * 200_000 + b"N.")
    with path.open("rb") as file:
        assert restricted_load(file) is None

    class Interrupting:
        """A file that sends this process a Ctrl-C when half is read."""

        def __init__(self, file):
            self.file, self.reads = file, 0

        def read(self, n):
            self.reads += 1
            if self.reads == 200_000:
                os.kill(os.getpid(), signal.SIGINT)
            return self.file.read(n)

        def __getattr__(self, name):
            return getattr(self.file, name)

    with path.open("rb") as file:
        interrupting = Interrupting(file)
        with pytest.raises(KeyboardInterrupt):
            restricted_load(interrupting)
        assert interrupting.reads < 210_000
