"""Drafts beside a run: `<run>/drafts/<id>.json`, saved after every operation. No Streamlit.

Whoever writes says which revision it saw last; where another tab has written since, what it has to
say goes into a new draft, and nothing is lost. A draft is of one network: of others, such as the
same run trained again, it is refused.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from apps.web.choice import Network
from apps.web.trace.draft_history import Ground, History
from workbench.errors import AppError, WorkbenchError
from workbench.storage import atomic_write, explained, from_json, read_file, to_json
from workbench.strict import Strict, validated

DRAFTS, LOCK = "drafts", ".lock"
ID = r"[0-9a-f]{16}"
MOST_DRAFTS = 100
"""Beside a run; the ones that were saved longest ago go first."""
MOST_BYTES = 2 * 2**20
"""Of a draft. Its oldest steps are forgotten where it would be larger."""


class DraftFile(Strict):
    """What a draft's file holds."""

    format: Literal["workbench-draft"] = "workbench-draft"
    version: Literal[1] = 1
    network: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}-[0-9a-f]{64}$")]
    """`apps.web.choice.Network.content`."""
    revision: Annotated[int, Field(ge=1, lt=2**53)]
    history: History


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A draft as a tab sees it."""

    id: str | None
    """None where it was never saved."""
    revision: int
    """Of the file when it was read or written last; 0 where there is none."""
    history: History


def ground_of(network: Network) -> Ground:
    """What circuits of a network are made on."""
    task = network.task
    positions = tuple(task.answer_positions)
    return Ground(config=network.run.config.model, n_ctx=task.n_ctx, positions=positions)


def read_draft(network: Network, draft_id: str) -> Draft:
    """A draft of this network.

    Raises `AppError` for an id that is none, a draft that there is not, or one of another network
    or shape; `RunError` for a file that cannot be read.
    """
    name = _name(draft_id)
    path = network.run.path / name
    if not path.is_file():
        raise AppError(f"no draft {draft_id} beside {network.name}; it may have been removed")
    if path.stat().st_size > MOST_BYTES:
        raise AppError(f"the draft {draft_id} is larger than {MOST_BYTES:,} bytes; start anew")
    data = read_file(network.run.path, name)
    from_json(data, where=f"the draft {draft_id}")  # no duplicate keys, no NaN
    file = validated(DraftFile, data, where=f"the draft {draft_id}", error=AppError)
    if file.network != network.content:
        raise AppError(
            f"the draft {draft_id} is of other weights of {network.name} (another checkpoint, or "
            "it was trained again); start a new one"
        )
    ground = ground_of(network)
    for step in (*file.history.done, *file.history.undone):
        ground.circuit(step.state)
    return Draft(id=draft_id, revision=file.revision, history=file.history)


def write_draft(network: Network, draft: Draft) -> Draft:
    """Save a draft; what was saved, under a new id where another tab has written meanwhile.

    Raises `RunError` where it cannot be written.
    """
    folder = network.run.path / DRAFTS
    with explained("create", folder):
        folder.mkdir(exist_ok=True)
    with _locked(folder):
        if draft.id is None or _revision(network, draft.id) not in (None, draft.revision):
            draft = replace(draft, id=secrets.token_hex(8), revision=0)
        draft = replace(draft, revision=draft.revision + 1)
        assert draft.id is not None
        draft, data = _fitting(network, draft)
        atomic_write(network.run.path / _name(draft.id or ""), data)
        _remove_oldest(folder)
    return draft


def draft_ids(network: Network) -> list[str]:
    """Ids of the drafts beside a network's run, those saved last first; of any of its weights."""
    folder = network.run.path / DRAFTS
    if not folder.is_dir():
        return []
    with explained("list", folder):
        return [path.stem for path in sorted(_files(folder), key=_saved, reverse=True)]


def is_id(text: str) -> bool:
    """Whether a text could be a draft's id."""
    return re.fullmatch(ID, text) is not None


def _name(draft_id: str) -> str:
    if not is_id(draft_id):
        raise AppError(f"{draft_id[:40]!r} is no draft; choose one from the list")
    return f"{DRAFTS}/{draft_id}.json"


def _revision(network: Network, draft_id: str) -> int | None:
    """Of the file as it is now; None where there is none, 0 where it cannot be read."""
    if not (network.run.path / _name(draft_id)).exists():
        return None
    try:
        return read_draft(network, draft_id).revision
    except WorkbenchError:  # damaged, or of another network: not ours to overwrite
        return 0


def _fitting(network: Network, draft: Draft) -> tuple[Draft, bytes]:
    """The draft and its bytes, without its oldest steps where these are too many."""
    while True:
        file = DraftFile(network=network.content, revision=draft.revision, history=draft.history)
        data = to_json(file.model_dump(), where="the draft")
        history = draft.history
        if len(data) <= MOST_BYTES or len(history.done) + len(history.undone) == 1:
            return draft, data
        done = history.done[len(history.done) // 2 :]
        draft = replace(draft, history=History(done=done))


def _remove_oldest(folder: Path) -> None:
    for path in sorted(_files(folder), key=_saved, reverse=True)[MOST_DRAFTS:]:
        with suppress(OSError):
            path.unlink()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.json") if is_id(path.stem)]


def _saved(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, path.name
    except OSError:
        return 0.0, path.name


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the only right to write drafts of a run: between reading a revision and replacing it."""
    with explained("write into", folder):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
