"""Opening, reading and writing of session files, and their parts, against other implementations."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from tests.session import changing, making
from tests.session.raw_zip import changed, pack
from workbench.errors import SessionError, WeightsError
from workbench.session.archive import open_archive
from workbench.session.readers import READERS
from workbench.session.readers.v1 import RECORDS, json_schemas
from workbench.session.schema import SCHEMA_VERSION, SessionDocument, weights_path
from workbench.session.verifying import STEPS, verify
from workbench.session.writing import write_archive


@pytest.fixture
def session(tmp_path: Path) -> Path:
    return making.write_small(tmp_path / "a.workbench")


def rewrite(path: Path, **what: object) -> None:
    given = {"parent": None, "made_with": making.MADE_WITH, **what}
    document = given.pop("document", making.small_document())
    members = given.pop("members", making.small_members())
    write_archive(path, document, members, **given)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- opening


def test_what_was_written_is_read(session: Path) -> None:
    archive = open_archive(session)
    assert archive.document == making.small_document()
    assert archive.size == session.stat().st_size
    assert archive.manifest.id == making.IDENTIFIER
    assert archive.manifest.created == "2026-11-20T18:53:06Z"
    assert archive.manifest.made_with == making.MADE_WITH
    assert {one: archive.read(one) for one, _ in making.small_members()} == dict(
        making.small_members()
    )
    assert open_archive(str(session)).document == archive.document


def test_zipfile_reads_the_same(session: Path) -> None:
    archive = open_archive(session)
    with zipfile.ZipFile(session) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == ["manifest.json", *(m.path for m in archive.manifest.members)]
        for name in opened.namelist():
            assert opened.read(name) == archive.read(name)
        infos = opened.infolist()
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.external_attr for info in infos} == {0o100644 << 16}
    assert {info.create_system for info in infos} == {3}
    packed = [info.filename for info in infos if info.compress_type != zipfile.ZIP_STORED]
    assert packed == ["session.json"]


def test_an_independent_packer_gives_the_same_file(session: Path) -> None:
    """The bytes, from the format's definition: `tests.session.raw_zip` shares no code."""
    with zipfile.ZipFile(session) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
        packed = [info.compress_size for info in opened.infolist()]
    parts = changing.zip_parts(members)
    raw, position = session.read_bytes(), 0
    for at, one in enumerate(parts):  # zlib may pack session.json otherwise than the writer asks
        position += 30 + len(one.name)
        parts[at] = changed(parts, at, packed=raw[position : position + packed[at]])[at]
        position += packed[at]
    assert pack(parts) == raw


def test_opening_reads_no_array(session: Path) -> None:
    """An array whose bytes are damaged is found when it is read, not when the file is opened."""
    data = bytearray(session.read_bytes())
    stretch = data.index(making.small_members()[0][1])
    data[stretch + 1000] ^= 1
    session.write_bytes(data)
    archive = open_archive(session)
    with pytest.raises(SessionError, match=r"weights-000000.*digest"):
        archive.read(weights_path(0))
    assert archive.read(weights_path(400))
    with pytest.raises(SessionError, match=r"no member '\.\./x'"):
        archive.read("../x")
    with pytest.raises(SessionError, match=r"weights-000000.*digest"):
        verify(session)


@pytest.mark.parametrize("member", [weights_path(0), "session.json"])
def test_what_the_manifest_does_not_list_is_not_read(tmp_path: Path, member: str) -> None:
    """Another content of the same size, with a CRC of its own that is right."""
    members = changing.members_of(changing.parts())
    path = tmp_path / "a.workbench"
    other = members[member].replace(b'"seed": 3', b'"seed": 4')
    other = other if member == "session.json" else other[:-1] + bytes([other[-1] ^ 1])
    assert other != members[member]
    path.write_bytes(pack(changing.zip_parts({**members, member: other})))
    says = f"{member} does not have the digest"
    if member == "session.json":
        with pytest.raises(SessionError, match=says):
            open_archive(path)
    else:
        archive = open_archive(path)
        with pytest.raises(SessionError, match=says):
            archive.read(member)


def test_verified_members_say_what_they_are(session: Path) -> None:
    said = {one.path: one.what for one in verify(session).members}
    # 6x4 + 3x4 + 3 (2x4x2) + 2x2x4 + 4x8 + 8x4 + 8 + 4 + 4x5 = 196
    assert (
        said["arrays/weights-000400.safetensors"] == "network at step 400: 11 tensors, 196 numbers"
    )
    assert said["arrays/training.safetensors"] == "training: 2 columns, 3 rows"
    assert said["session.json"] == "1 record"
    record = making.document_data()["records"][0]["id"]
    assert said[f"arrays/{record}.safetensors"] == f"arrays of {record}: 6 tensors, 14 numbers"


def test_a_newer_version_is_named(tmp_path: Path) -> None:
    newer = changing.parts()
    newer.manifest["schema_version"] = 2
    path = tmp_path / "a.workbench"
    path.write_bytes(changing.packed(newer))
    with pytest.raises(SessionError) as caught:
        open_archive(path)
    assert str(caught.value) == (
        f"{path}: manifest.json: schema version 2, this Workbench reads up to 1; "
        "upgrade with pip install --upgrade mechinterp-workbench"
    )


def test_there_is_a_reader_for_every_version() -> None:
    assert list(READERS) == list(range(1, SCHEMA_VERSION + 1))


def test_published_schemas_are_those_of_the_models() -> None:
    folder = Path(sys.modules["workbench.session"].__path__[0]) / "schemas"
    schemas = json_schemas()
    assert {path.name for path in folder.glob("*-1.json")} == set(schemas)
    for name, schema in schemas.items():
        assert json.loads((folder / name).read_text()) == schema


def test_limits_of_the_models_are_known() -> None:
    schema = json_schemas()["session-1.json"]
    assert schema["properties"]["records"]["maxItems"] == RECORDS
    assert schema["$defs"]["Checkpoint"]["properties"]["step"]["exclusiveMaximum"] == STEPS
    record, finding = (schema["$defs"][one]["properties"] for one in ("Record", "Finding"))
    assert record["findings"]["maxItems"] == 200
    assert record["tolerances"]["maxProperties"] == 100
    assert (finding["controls"]["maxItems"], finding["details"]["maxProperties"]) == (100, 100)
    assert schema["$defs"]["Notebook"]["properties"]["notes"]["maxItems"] == 200


# ---------------------------------------------------------------------- writing


def test_writing_is_deterministic(session: Path, tmp_path: Path) -> None:
    again = making.write_small(tmp_path / "b.workbench")
    assert again.read_bytes() == session.read_bytes()


def test_each_session_has_its_own_id_and_time(tmp_path: Path) -> None:
    path, before = tmp_path / "a.workbench", datetime.now(UTC).replace(microsecond=0)
    found = set()
    for _ in range(2):
        rewrite(path, parent=making.IDENTIFIER)
        manifest = open_archive(path).manifest
        assert manifest.parent == making.IDENTIFIER
        created = datetime.strptime(manifest.created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        assert before <= created <= datetime.now(UTC)
        found.add(manifest.id)
    assert len(found) == 2


def test_time_is_written_in_utc(tmp_path: Path) -> None:
    path = tmp_path / "a.workbench"
    rewrite(path, created=making.CREATED.astimezone(timezone(timedelta(hours=-7))))
    assert open_archive(path).manifest.created == "2026-11-20T18:53:06Z"


def test_members_may_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "a.workbench"
    rewrite(path, members=reversed(making.small_members()))
    assert verify(path).document == making.small_document()


def _nan() -> list[tuple[str, bytes]]:
    arrays = making.training()
    arrays["train_loss"][1] = np.nan
    data = making.safetensors_bytes(arrays)
    return [(name, data if "training" in name else one) for name, one in making.small_members()]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        (making.small_members()[1:], r"weights-000000.safetensors was not given"),
        ([*making.small_members(), making.small_members()[0]], "twice"),
        ([*making.small_members(), ("arrays/x", b"")], "'arrays/x' twice, or one"),
        ([*making.small_members(), ("../x", b"")], "'../x' twice, or one"),
        ([(name, b"") for name, _ in making.small_members()], "nobody could open it"),
        (_nan(), "nobody could open it: .*training.safetensors: train_loss: a value that is NaN"),
    ],
)
def test_what_a_reader_would_refuse_is_not_written(
    session: Path, members: list[tuple[str, bytes]], says: str
) -> None:
    before = session.read_bytes()
    with pytest.raises(SessionError, match=says):
        rewrite(session, members=members)
    assert session.read_bytes() == before
    assert os.listdir(session.parent) == [session.name]  # noqa: PTH208


def test_results_that_a_reader_would_refuse_are_not_written(session: Path) -> None:
    before = session.read_bytes()
    document = making.small_document()
    deep: object = 1
    for _ in range(60):
        deep = [deep]
    for result, says in [
        ({"a": float("nan")}, "not JSON compliant"),
        ({"a": "\x1b[2J"}, r"U\+001B"),
        ({"a": 10**50}, "more than 40 characters"),
        ({"a": "a" * 100_001}, "text of 100001 characters"),
        ({"a": deep}, "inside each other"),
        ({"a": [0] * 250_000}, "more than 250000 values"),
    ]:
        record = document.records[0].model_copy(update={"result": result})
        with pytest.raises(SessionError, match=says):
            rewrite(session, document=document.model_copy(update={"records": (record,)}))
    assert session.read_bytes() == before


def test_more_findings_than_can_be_read_are_not_written(session: Path) -> None:
    document = making.small_document()
    (first,) = document.records
    (finding,) = first.findings
    some = tuple(replace(finding, id=f"finding {n}") for n in range(200))
    records = [
        first.model_copy(update={"id": f"patching-{n:016x}", "arrays": None, "findings": some})
        for n in range(10)
    ]
    says = "2001 findings; at most 2000 in a session; whoever saves it must leave some out"
    with pytest.raises(SessionError, match=says):
        rewrite(session, document=document.model_copy(update={"records": (first, *records)}))
    rewrite(session, document=document.model_copy(update={"records": (first, *records[1:])}))
    assert len(open_archive(session).document.records) == 10


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"identifier": "../x"}, "manifest.json: id"),
        ({"parent": "x"}, "manifest.json: parent"),
        ({"made_with": {"torch": "\x1b"}}, r"U\+001B"),
        ({"made_with": {"A b": "1"}}, "manifest.json: made_with"),
    ],
)
def test_a_manifest_that_cannot_be(session: Path, what: dict[str, object], says: str) -> None:
    with pytest.raises(SessionError, match=says):
        rewrite(session, **what)


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "a.workbench", tmp_path / ("a" * 300)):
        with pytest.raises(SessionError, match=r"cannot write .*; check the name"):
            rewrite(path)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(SessionError, match=r"is a directory; check the name"):
        rewrite(folder)
    assert os.listdir(tmp_path) == ["folder"]  # noqa: PTH208


@pytest.mark.parametrize("number", range(8))
def test_a_full_disk_leaves_the_old_file(
    session: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever step fails: the file's own flush, its rename, or a read that checks it."""
    before, steps = session.read_bytes(), [0]

    def failing(step: Callable[..., object]) -> Callable[..., object]:
        def stepping(*given: object, **named: object) -> object:
            steps[0] += 1
            if steps[0] == number + 1:
                raise OSError(28, "No space left on device")
            return step(*given, **named)

        return stepping

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    monkeypatch.setattr(os, "pread", failing(os.pread))
    says = "no space left on device; check the name, the permissions and the free space"
    with pytest.raises(SessionError, match=says):
        rewrite(session)
    assert session.read_bytes() == before
    assert os.listdir(session.parent) == [session.name]  # noqa: PTH208


def test_errors_of_what_is_written_come_out_as_they_are(session: Path) -> None:
    """A run that cannot be read says so itself; the session is as it was."""
    before = session.read_bytes()

    def members() -> Iterator[tuple[str, bytes]]:
        yield making.small_members()[0]
        raise WeightsError("the checkpoint is damaged; train again")

    with pytest.raises(SessionError, match="the checkpoint is damaged; train again"):
        rewrite(session, members=members())
    assert session.read_bytes() == before
    assert os.listdir(session.parent) == [session.name]  # noqa: PTH208


def test_many_repeated_numbers_stay_readable(session: Path) -> None:
    """What packs so well that it looks like a bomb is stored as it is."""
    document = making.small_document()
    record = document.records[0].model_copy(update={"result": {"rows": [0] * 200_000}})
    rewrite(session, document=document.model_copy(update={"records": (record,)}))
    assert verify(session).document.records[0].result == record.result
    with zipfile.ZipFile(session) as opened:
        assert opened.getinfo("session.json").compress_type == zipfile.ZIP_STORED


def test_two_hundred_checkpoints_are_listed_without_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, raw = making.document_data(), making.safetensors_bytes(making.weights(0))
    digest = making.weights_digest(making.weights(0))
    data["checkpoints"] = [{"step": n, "weights_sha256": digest} for n in range(200)]
    data |= {"records": [], "training_rows": None}
    document = SessionDocument.model_validate_json(json.dumps(data))
    path = tmp_path / "a.workbench"
    rewrite(path, document=document, members=[(weights_path(n), raw) for n in range(200)])
    read, real = [0], os.pread

    def counting(descriptor: int, size: int, offset: int) -> bytes:
        read[0] += size
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counting)
    archive = open_archive(path)
    assert len(archive.document.checkpoints) == 200
    assert read[0] < archive.size - 200 * len(raw) + 100


# ---------------------------------------------------------------------- imports


def test_the_archive_layer_imports_no_torch() -> None:
    script = (
        "import sys, workbench.session.writing, workbench.session.verifying\n"
        "sys.exit(', '.join({'torch', 'numpy', 'safetensors'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.stderr == b"\n"  # of the empty list
