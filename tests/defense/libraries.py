"""Libraries that tests are made with where they are installed."""

import pytest
import torch


def library(name):
    """A module; without it the test is skipped."""
    try:
        import torchvision  # noqa: F401  which the others import as well
    except RuntimeError:
        # PyPI's torchvision is built for CUDA, and finds no operators beside a torch that is not.
        # It cannot even be imported until these two have names; nothing here calls them.
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float least) -> Tensor"
            )
    except ModuleNotFoundError:
        pass
    return pytest.importorskip(name)
