"""What the Findings page reads and changes beside a run, and the files it makes. No Streamlit."""

import functools
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from apps.recording import EXPLANATION, report_path, saved_report
from apps.session_page import session_page
from workbench.errors import AppError, WorkbenchError
from workbench.manifest import CHECKPOINTS, step_path
from workbench.record import Record
from workbench.records import NOTEBOOK, RECORDS, read_notebook, read_records, write_notebook
from workbench.run import Run
from workbench.session import Session, diff, open_session, save_session
from workbench.session.differing import Change
from workbench.session.opening import ORIGIN
from workbench.session.schema import Notebook
from workbench.storage import atomic_write, explained, sha256, to_json
from workbench.strict import LABEL, plain_line, validated

PAGE = "page"
"""In a notebook's view: the page that was looked at."""
NOT_SEEN = ("run", "session", "section", PAGE)
"""Names in an address that a view does not hold: they mean something on this machine alone."""
MOST_SEEN = 100

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_writing = threading.Lock()
"""Two tabs may add a note at once."""

Stamp = tuple[tuple[str, int, int], ...]


# ---------------------------------------------------------------------- records


def records_of(run: Run) -> tuple[Record, ...]:
    """The records beside a run, read again only where a file changed. Raises `RunError`."""
    return _records(_ByPath(run), _stamp(run.path / RECORDS))


def remove_record(run: Run, record: Record) -> None:
    """Remove a record; the report beside the run is drawn again, or goes with it.

    Raises `RunError`.
    """
    folder = run.path / RECORDS
    with explained("remove", folder):
        for suffix in ("json", "safetensors"):  # the JSON first: it is what counts
            (folder / f"{record.id}.{suffix}").unlink(missing_ok=True)
    report = report_path(run, record.step)
    if not report.is_file():
        return
    last = record.step == run.steps[-1]
    if last and any(one.kind == EXPLANATION for one in read_records(run, record.step)):
        atomic_write(report, saved_report(run).encode())
    else:
        with explained("remove", report):
            report.unlink(missing_ok=True)


class _ByPath:
    """A run as the key of a cache: the stamp beside it tells its content."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __hash__(self) -> int:
        return hash(self.run.path)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _ByPath)
            and self.run.path == other.run.path
            and self.run.manifest == other.run.manifest
        )


@functools.lru_cache(maxsize=8)
def _records(run: _ByPath, stamp: Stamp) -> tuple[Record, ...]:
    return tuple(read_records(run.run))


def _stamp(folder: Path) -> Stamp:
    """Names, times and sizes of what lies in a folder."""
    if not folder.is_dir():
        return ()
    with explained("list", folder):
        found = [(path.name, path.stat()) for path in folder.iterdir()]
    return tuple(sorted((name, one.st_mtime_ns, one.st_size) for name, one in found))


# ---------------------------------------------------------------------- notes


def add_note(run: Run, text: str) -> None:
    """Add a note beside a run. Raises `AppError` for text that cannot be one, or `RunError`."""
    if not text.strip():
        raise AppError("the note is empty; write something first")
    with _writing:
        notebook = read_notebook(run)
        data = notebook.model_dump(mode="json")
        created = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        data["notes"].append({"text": text.replace("\r\n", "\n"), "created": created})
        write_notebook(run, _notebook(data))


def delete_note(run: Run, index: int, created: str) -> None:
    """Delete the note at a place. Raises `AppError` where another is there by now."""
    with _writing:
        notebook = read_notebook(run)
        if not 0 <= index < len(notebook.notes) or notebook.notes[index].created != created:
            raise AppError("the notes changed meanwhile; look at them again")
        notes = notebook.notes[:index] + notebook.notes[index + 1 :]
        write_notebook(run, notebook.model_copy(update={"notes": notes}))


def _notebook(data: Mapping[str, object]) -> Notebook:
    return validated(Notebook, to_json(data, where=NOTEBOOK), where="the note", error=AppError)


# ---------------------------------------------------------------------- what was on the screen


def view_of(address: Mapping[str, Sequence[str]], page: str | None) -> dict[str, str]:
    """What is on the screen, from the address: what a notebook's view holds."""
    seen = {
        name: values[0]
        for name, values in address.items()
        if len(values) == 1 and _is_seen(name, values[0])
    }
    some = dict(list(seen.items())[:MOST_SEEN])
    return some if page is None else {PAGE: page, **some}


def address_of(view: Mapping[str, object]) -> dict[str, str]:
    """The address that shows a view again. Whatever a page does not know is dropped there."""
    said = {name: _text(value) for name, value in view.items()}
    return {name: value for name, value in said.items() if _is_seen(name, value)}


def _is_seen(name: str, value: str) -> bool:
    """Whether a name in the address says what is looked at, here and elsewhere."""
    if name in NOT_SEEN or name.startswith("findings_") or name.endswith("_job"):
        return False
    if not _NAME.fullmatch(name) or len(value) > LABEL:
        return False
    try:
        plain_line(value)
    except ValueError:
        return False
    return True


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------------- files


def session_file(
    run: Run,
    *,
    note: str | None,
    only: Sequence[str] | None,
    all_checkpoints: bool,
    view: Mapping[str, str] | None,
) -> bytes:
    """A run's findings as the bytes of a session file.

    Args:
        note: added to the notes.
        only: ids of records; all of them when None.
        all_checkpoints: whether checkpoints go in that no finding speaks of.
        view: what is on the screen; what the run's notebook holds when None.

    Raises what `save_session` raises.
    """
    notebook = read_notebook(run)
    if view is not None:
        notebook = notebook.model_copy(update={"view": dict(view)})
    with tempfile.TemporaryDirectory(prefix="workbench-save-") as folder:
        path = Path(folder) / "session.workbench"
        save_session(
            run, path, note=note, only=only, all_checkpoints=all_checkpoints, notebook=notebook
        )
        return path.read_bytes()


def page_of_run(run: Run) -> bytes:
    """A run's findings as a page that opens offline. Raises what `save_session` raises."""
    with as_session(run) as session:
        return session_page(session).encode()


@contextmanager
def as_session(run: Run) -> Iterator[Session]:
    """A run as a session, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="workbench-save-") as folder:
        path = Path(folder) / f"{file_name(run.path.name)}.workbench"
        save_session(run, path)
        yield open_session(path)


def size_of(run: Run, records: Sequence[Record], *, all_checkpoints: bool) -> int:
    """About how many bytes a session file of these records has."""
    spoken_of = {one.step for record in records for one in record.checkpoints}
    steps = run.steps if all_checkpoints else sorted({*spoken_of, *run.steps[-1:]})
    files = run.manifest.files
    weights = sum(files[step_path(CHECKPOINTS, step)].size for step in steps)
    arrays = sum(record.arrays.size for record in records if record.arrays is not None)
    return weights + arrays + 10_000


def file_name(text: str) -> str:
    """A name as a file may have it everywhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:100].strip("-.") or "session"


# ---------------------------------------------------------------------- sessions beside the runs


def accepted_as(session: Session, runs: Path, names: Sequence[str]) -> str | None:
    """The run that was made of a session before, if there is one."""
    manifest = session.manifest.model_dump()
    origin = sha256(to_json(manifest, where="the manifest", sort_keys=True))
    for name in names:
        path = runs / name / ORIGIN
        if name.endswith(origin[:12]) and path.is_file() and path.read_text().strip() == origin:
            return name
    return None


def is_from_session(run: Run) -> bool:
    """Whether a run was made of a session."""
    return (run.path / ORIGIN).is_file()


def changes_between(first: Run | Session, second: Run | Session) -> list[Change]:
    """What differs between two runs or sessions. Raises what saving and reading raise."""
    with _session(first) as a, _session(second) as b:
        try:
            return diff(a, b)
        except WorkbenchError:
            raise
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise AppError(f"the two cannot be compared: {error}; verify both files") from error


@contextmanager
def _session(one: Run | Session) -> Iterator[Session]:
    if isinstance(one, Session):
        yield one
        return
    with as_session(one) as session:
        yield session
