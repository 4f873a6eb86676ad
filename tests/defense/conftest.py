"""Settings that hold for every test of the defense."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """With one thread of torch results are the same to the last digit, and small nets faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
