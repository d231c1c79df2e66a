"""Session files that are opened in the app: whole ones are kept by digest, others leave nothing."""

import os
from pathlib import Path

import pytest

from apps.orders.replay import DIFFERENCES, ReplayOrder
from apps.web.findings import uploads
from apps.web.findings.uploads import (
    OPENED,
    forget_session,
    keep_session,
    opened_digests,
    opened_session,
)
from tests.session import hostile, making
from tests.session.changing import Case, packed, parts
from workbench.errors import AppError, SessionError
from workbench.progress import finish
from workbench.storage import sha256


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """A couple of dozen refused files, over every family, and those that are refused by name."""
    refused = [case for case in hostile.corpus() if case.outcome == "refused"]
    assert len(refused) > 100
    return refused[:: len(refused) // 24]


def left_in(runs: Path) -> list[str]:
    folder = runs / OPENED
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_whole_file_is_kept_under_its_digest_alone(tmp_path: Path) -> None:
    data = packed(parts())
    digest = keep_session(tmp_path, data)
    assert digest == sha256(data)
    assert left_in(tmp_path) == [f"{digest}.workbench"]
    assert opened_session(tmp_path, digest).archive.document == making.small_document()
    assert keep_session(tmp_path, data) == digest and len(left_in(tmp_path)) == 1
    forget_session(tmp_path, digest)
    assert left_in(tmp_path) == []


def test_a_refused_file_leaves_nothing_and_says_why_in_one_line(
    tmp_path: Path, cases: list[Case]
) -> None:
    assert len(cases) >= 24
    for case in cases:
        with pytest.raises(SessionError) as caught:
            keep_session(tmp_path, case.content)
        message = str(caught.value)
        assert case.says in message and message.isprintable(), case.name
        assert str(tmp_path) not in message, case.name  # nothing of this machine
        assert left_in(tmp_path) == [], case.name


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "", "a" * 63, "A" * 64, "a" * 64 + "\n", "/" * 64, "é" * 64, "a" * 65],
)
def test_only_digests_name_a_session(tmp_path: Path, name: str) -> None:
    with pytest.raises(AppError, match="64 hexadecimal digits; open its file again"):
        opened_session(tmp_path, name)


def test_a_session_that_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="not kept any more; open its file again"):
        opened_session(tmp_path, "0" * 64)


def test_a_link_out_of_the_folder_is_no_session(tmp_path: Path) -> None:
    """What lies there under another name than a digest's is not listed."""
    (tmp_path / OPENED).mkdir()
    (tmp_path / OPENED / "passwd.workbench").symlink_to("/etc/passwd")
    assert opened_digests(tmp_path) == []


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(parts())
    monkeypatch.setattr(uploads, "LARGEST", len(data) - 1)
    with pytest.raises(AppError, match=f"has {len(data):,} bytes; at most"):
        keep_session(tmp_path, data)
    assert left_in(tmp_path) == []


def kept_with_names(runs: Path, n: int) -> list[str]:
    """Sessions that differ in their identifier, each looked at one second after the one before."""
    digests = []
    for i in range(n):
        session = parts()
        session.manifest["id"] = f"{i:032x}"
        digests.append(keep_session(runs, packed(session)))
        os.utime(runs / OPENED / f"{digests[-1]}.workbench", (i, i))
    return digests


def test_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST", 3)
    first, second, third = kept_with_names(tmp_path, 3)
    assert opened_digests(tmp_path) == [third, second, first]
    opened_session(tmp_path, first)  # looked at: no longer the oldest
    session = parts()
    session.manifest["id"] = "f" * 32
    fourth = keep_session(tmp_path, packed(session))
    assert set(opened_digests(tmp_path)) == {first, third, fourth}


def test_all_of_them_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(packed(parts()))
    monkeypatch.setattr(uploads, "MOST_BYTES", 2 * size + size // 2)
    first, second, third = kept_with_names(tmp_path, 3)
    assert set(opened_digests(tmp_path)) == {second, third} and first
    monkeypatch.setattr(uploads, "MOST_BYTES", 1)
    assert opened_digests(tmp_path) and keep_session(tmp_path, packed(parts()))
    assert len(opened_digests(tmp_path)) == 1  # the newest stays, however large


def test_a_file_that_was_damaged_since_is_refused(tmp_path: Path) -> None:
    digest = keep_session(tmp_path, packed(parts()))
    path = tmp_path / OPENED / f"{digest}.workbench"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SessionError):
        opened_session(tmp_path, digest)


def test_the_replay_of_a_kept_session(app_folder: Path) -> None:
    """Two of its kinds at once would take long; the patching sweep and the circuit are enough."""
    from workbench.run import open_run
    from workbench.session import save_session

    runs = app_folder / "runs"
    save_session(
        open_run(runs / "full"), app_folder / "less.workbench", only=["patching", "circuit"]
    )
    digest = keep_session(runs, (app_folder / "less.workbench").read_bytes())
    order = ReplayOrder(session=digest, limit=300)
    document = finish(order.work(runs))
    assert [row["kind"] for row in document["replayed"]] == ["circuit", "patching"]
    assert [row["state"] for row in document["replayed"]] == ["holds", "holds"]
    assert document["holds"] is True and "does not check" in document["not_checked"]
    assert all(len(row["differences"]) <= DIFFERENCES for row in document["replayed"])
    assert digest[:12] in order.title()


def test_the_replay_of_a_session_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(AppError, match="open its file again"):
        finish(ReplayOrder(session="0" * 64).work(tmp_path))
