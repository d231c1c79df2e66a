"""Hostile files: each is refused in one line, or opens and holds its script as plain text.

All of them go through one process of their own, which imports no torch: what it takes in memory and
time is part of what is promised.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.session import changing, hostile, making
from workbench.errors import SessionError
from workbench.session.archive import open_archive
from workbench.session.verifying import verify

MEMORY = 200
"""MB that a process may hold while it refuses any of these."""
SECONDS = 2
"""Of the processor, for one file."""


class Refused:
    """The corpus, and what became of it."""

    def __init__(self, folder: Path) -> None:
        self.cases = hostile.write_all(folder)
        self.folder = folder
        run = [sys.executable, "-m", "tests.session.refusing", str(folder)]
        done = subprocess.run(run, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr[-3000:]
        self.taken: dict[str, Any] = json.loads(done.stdout)

    def __iter__(self) -> Iterator[tuple[changing.Case, dict[str, Any]]]:
        return zip(self.cases, self.taken["files"].values(), strict=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Refused:
    return Refused(tmp_path_factory.mktemp("hostile"))


def test_every_file_has_its_outcome(corpus: Refused) -> None:
    wrong = [
        (case.name, case.says, got)
        for case, got in corpus
        if got["outcome"] != case.outcome or case.says not in got["message"]
    ]
    assert not wrong
    assert len({case.name for case in corpus.cases}) == len(corpus.cases) > 120
    assert sum(case.outcome == "inert" for case in corpus.cases) > 15


def test_messages_are_one_printable_line_that_says_how_to_mend_it(corpus: Refused) -> None:
    for case, got in corpus:
        if case.outcome == "refused":
            message = got["message"]
            assert message.isprintable() and len(message) < 1200, case.name
            assert "; " in message, case.name


def test_memory_and_time_are_bounded(corpus: Refused) -> None:
    assert corpus.taken["memory"] < MEMORY
    slowest = max(corpus, key=lambda one: one[1]["seconds"])
    assert slowest[1]["seconds"] < SECONDS, slowest


def test_no_torch_is_imported(corpus: Refused) -> None:
    assert not corpus.taken["torch"]


def test_script_stays_text(corpus: Refused) -> None:
    """A label that is markup is the same string after it was read."""
    found = 0
    for number, case in enumerate(corpus.cases):
        if case.name.startswith("script"):
            document = open_archive(corpus.folder / f"{number:04d}.workbench").document
            text = json.dumps(document.model_dump(mode="json"))
            held = [markup for markup in hostile.MARKUP if json.dumps(markup)[1:-1] in text]
            assert held, case.name
            found += 1
    assert found == 19


# ---------------------------------------------------------------------- what is no file


def refusal_of(path: Path) -> str:
    with pytest.raises(SessionError) as caught:
        verify(path)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_what_is_not_a_plain_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "not a plain file" in refusal_of(pipe)  # and does not wait for a writer
    assert "not a plain file" in refusal_of(tmp_path)
    assert "not a plain file" in refusal_of(Path("/dev/null"))
    assert "no such file" in refusal_of(tmp_path / "missing")
    assert "too long" in refusal_of(tmp_path / ("a" * 300))
    assert "null" in refusal_of(tmp_path / "a\0b")
    assert "\\x1b[2J" in refusal_of(tmp_path / "\x1b[2J\n")


def test_links(tmp_path: Path) -> None:
    """A link that the user made to a session is the user's business; one in a circle is refused."""
    session = making.write_small(tmp_path / "a.workbench")
    link = tmp_path / "link"
    link.symlink_to(session)
    assert verify(link).document == making.small_document()
    link.unlink()
    link.symlink_to(link)
    assert "symbolic links" in refusal_of(link)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system says it; the one who runs the tests may be allowed everything."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    session = making.write_small(tmp_path / "a.workbench")
    monkeypatch.setattr(os, "open", refuse)
    assert "permission denied; check the name, the permissions" in refusal_of(session)


@pytest.mark.parametrize("fault", [OSError(5, "Input/output error"), MemoryError()])
def test_faults_while_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    session = making.write_small(tmp_path / "a.workbench")
    calls, real = [0], os.pread

    def fail_at(number: int) -> Any:
        def pread(descriptor: int, size: int, offset: int) -> bytes:
            calls[0] += 1
            if calls[0] == number:
                raise fault
            return real(descriptor, size, offset)

        return pread

    monkeypatch.setattr(os, "pread", fail_at(0))
    verify(session)
    for number in range(1, calls[0] + 1, 3):
        calls[0] = 0
        monkeypatch.setattr(os, "pread", fail_at(number))
        assert str(session) in refusal_of(session)


def test_a_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = making.write_small(tmp_path / "a.workbench")
    archive = open_archive(session)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, size, at) if at < 2000 else b"")
    assert "ends at byte" in refusal_of(session)
    monkeypatch.undo()
    session.write_bytes(session.read_bytes()[:-40].ljust(archive.size, b"\0"))
    assert archive.read("session.json")  # its own bytes are as they were
    session.write_bytes(bytes(archive.size))
    with pytest.raises(SessionError, match="damaged"):
        archive.read("session.json")


def test_one_hundred_thousand_names_that_are_alike(tmp_path: Path) -> None:
    """Nothing looks for near names among a stranger's keys."""
    session = changing.parts()
    session.document["network"]["model"] |= {f"n_layer{'s' * 50}{n}": 1 for n in range(9_000)}
    path = tmp_path / "a.workbench"
    path.write_bytes(changing.packed(session))
    assert "model" in refusal_of(path)
