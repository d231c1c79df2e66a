"""Verify many files in a process of its own, as a reader would, and say what that took.

`python -m tests.session.refusing FOLDER` prints one JSON object: for each file its outcome (`inert`
or `refused`), the message and the processor seconds; the peak memory of the process in MB; and
whether torch was imported. Nothing but a `SessionError` is caught.
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from workbench.errors import SessionError
from workbench.session.verifying import verify


def outcome(path: Path) -> dict[str, Any]:
    """What becomes of one file."""
    started = time.process_time()
    try:
        verify(path)
        said = {"outcome": "inert", "message": ""}
    except SessionError as error:
        said = {"outcome": "refused", "message": str(error)}
    return {**said, "seconds": time.process_time() - started}


def peak_memory() -> float:
    """The most memory that this process has held, in MB.

    Not `ru_maxrss`: that starts at what the process held which started this one.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).glob("*.workbench"))
    outcomes = {path.name: outcome(path) for path in files}
    taken = {"files": outcomes, "memory": peak_memory(), "torch": "torch" in sys.modules}
    sys.stdout.write(json.dumps(taken))
