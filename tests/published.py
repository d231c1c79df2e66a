"""Where the published networks are, for the tests that read them."""

import os
from pathlib import Path

import pytest

PUBLISHED = Path(
    os.environ.get("WORKBENCH_NETWORKS")
    or Path(__file__).parents[1].parent / "shared" / "data" / "networks"
)
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason=f"no published networks at {PUBLISHED}; set WORKBENCH_NETWORKS"
)
