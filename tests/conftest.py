"""Settings that hold for every test."""

import signal
import sys

import pytest
from hypothesis import settings

settings.register_profile("subsel", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("subsel")


def pytest_configure():
    """Tests press Ctrl-C, which a shell makes its background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def few_rows_are_searched_as_many():
    """A matrix is made of few rows only where a test asks for it; tests have few rows."""
    from subsel.sources import scale

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "FEW_ROWS", 0)
        yield


def pytest_collection_modifyitems(items):
    """Toys are small: what a defense says of small classes and odd rounds is no error there."""
    for item in items:
        if {"defense", "poisoning", "trust"} & set(item.path.parts):
            item.add_marker(
                pytest.mark.filterwarnings("ignore::subsel.defense.DefenseWarning"), append=False
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol():
    """Run each test, with the fixtures that are made for it, on one thread of torch.

    Results are then the same to the last digit, and small nets are faster, up to twenty times where
    other processes use the processors too. A fixture could not see to it, because those of the
    session, which train nets, are made before those of a test.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        return (yield)
    finally:
        if torch:
            torch.set_num_threads(threads)
