"""What each of two processes does for test_loops.py: run by torchrun, with a folder to write to."""

import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from loops import EPOCHS, LOOPS

STOP = 4  # no round is due before this epoch, and so nothing begins the loader anew


def outcome(epic, net, trained):
    return {
        "kept": epic.kept,
        "rounds": [entry.to_dict() for entry in epic.history],
        "trained": trained,
        "state": net.state_dict(),
    }


def main(out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    warnings.simplefilter("ignore")
    rank, results = dist.get_rank(), {}
    for name, loop in LOOPS.items():
        for folder, parts in (("whole", [(0, EPOCHS)]), ("parts", [(0, STOP), (STOP, EPOCHS)])):
            (out / name / folder).mkdir(parents=True, exist_ok=True)
            try:
                for first, stop in parts:
                    given = {"ranks": 2, "rank": rank, "first": first, "stop": stop}
                    if name == "transformers":  # whose checkpoints are of the whole training's
                        given |= {"stop": EPOCHS, "at_step": 6 * STOP if stop == STOP else None}
                    found = loop(out / name / folder, **given)
                    dist.barrier()
            except pytest.skip.Exception:  # the library is not installed
                continue
            results[name, folder] = outcome(*found)
    torch.save(results, out / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
