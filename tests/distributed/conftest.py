"""One cluster of Dask for all tests of distributed selection."""

import dask
import distributed
import pytest


@pytest.fixture(scope="package")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def scheduler():
    """Dask computes as by default again after each test, also if a client was closed in it."""
    yield
    dask.config.set(scheduler=None)
