"""Selections have the bits that they had when they were put on record: see `golden.cases`."""

import json

import pytest
from golden.cases import RECORD, cases, written

RECORDED = json.loads(RECORD.read_text())


@pytest.mark.parametrize(("name", "run"), [pytest.param(*case, id=case[0]) for case in cases()])
def test_on_the_cpu(name, run):
    assert written(run(), "gains" in RECORDED[name]) == RECORDED[name]


def test_nothing_on_record_is_left_out():
    assert {name for name, _ in cases()} == set(RECORDED)
