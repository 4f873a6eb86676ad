"""Settings that hold for every test."""

import hashlib
import os
import tempfile
from pathlib import Path

# Numba's disk cache does not see a change in a function that is called from another file, so the
# compiled kernels of each state of the sources are kept apart.
_sources = sorted((Path(__file__).parent.parent / "subsel" / "kernels").glob("*.py"))
_digest = hashlib.sha256(b"".join(path.read_bytes() for path in _sources)).hexdigest()[:16]
os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"subsel-test-kernels-{_digest}")

from hypothesis import settings  # noqa: E402

settings.register_profile("subsel", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("subsel")
