"""What the terminal tells of a session: all that is claimed, and never as our own words."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from apps import session_console
from apps.session_page_replayed import NOT_CHECKED
from apps.terminal import folded
from tests.app.small_session import changed, small_session
from workbench.session import Session
from workbench.session.differing import Change
from workbench.session.replaying import Replayed
from workbench.session.schema import Group, Marks, Note

FORGED = "5 of 5 hold, in 1.0 s"
OURS = (
    *("  ", "task ", "session ", "made with ", "checkpoints: ", "marks on the circuit graph:"),
    *("mechanism at step ", "patching at step ", "circuit at step ", "note of 2026-"),
    *("Nothing was run", "Replay it: "),
)
"""How every line begins: an indent, or words of ours."""
MADE = "2026-11-20T18:53:06Z"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return small_session(tmp_path_factory.mktemp("session"))


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def a_finding(name: str, n_controls: int = 1, **other: Any) -> dict[str, Any]:
    control = {"value": 0.0171, "n": 23, "interval": [0.0156, 0.0187], "unit": "draws"}
    return {
        "id": name,
        "claim": "three frequencies are enough",
        "measure": "share of inputs answered right",
        "value": 0.9321,
        "n": 3481,
        "interval": None,
        "held_out": 0.9102,
        "controls": [control | {"name": f"draw {i}"} for i in range(n_controls)],
        "verdict": "supported",
        "rule": "above 0.9",
        "details": {},
        **other,
    }


def shown(session: Session, capsys: pytest.CaptureFixture[str]) -> list[str]:
    session_console.show(session)
    lines = capsys.readouterr().out.splitlines()
    command = "Replay it: workbench session replay "
    assert all(cell_len(line) <= 80 or line.startswith(command) for line in lines)
    return lines


def test_every_claim_is_told_with_its_numbers_and_controls(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(document: dict[str, Any]) -> None:
        for record in document["records"]:
            record["findings"] = []
        found = next(one for one in document["records"] if one["kind"] == "mechanism")
        found["result"] |= {"verdict": "partial", "reason": "one claim is supported"}
        other = {"interval": [-1e-5, 2.5e300], "held_out": None, "verdict": "not applicable"}
        found["findings"] = [a_finding("sufficiency"), a_finding("formula", 0, **other)]

    made = changed(session, tmp_path / "x.workbench", change)
    lines = shown(made, capsys)
    by_kind = {record.kind: record for record in made.records}
    at = lines.index(f"mechanism at step {made.steps[-1]}, record {by_kind['mechanism'].id}")
    assert lines[at + 1 : at + 7] == [
        "  verdict: partial: one claim is supported",
        "  supported: sufficiency: 0.9321 exhaustive, n = 3,481, held out 0.9102",
        "    claim: three frequencies are enough",
        "    control draw 0: 0.0171 [0.0156, 0.0187], n = 23 draws",
        "  not applicable: formula: 0.9321 [-1e-05, 2.5e+300], n = 3,481",
        "    claim: three frequencies are enough",
    ]
    for kind in ("patching", "circuit"):
        at = lines.index(f"{kind} at step {made.steps[-1]}, record {by_kind[kind].id}")
        assert lines[at + 1] == "  it claims nothing: numbers alone"


def test_marks_and_notes_are_told(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(document: dict[str, Any]) -> None:
        notes = [
            {"text": "one\n\n\ttwo", "created": MADE},
            {"text": ":smile: [b]", "created": MADE},
        ]
        groups = [{"name": "adders", "nodes": [f"a0.h{i}" for i in range(23)]}]
        marks = {"labels": {"m0": "multiplies [red]"}, "groups": groups, "pinned": ["embed"]}
        document["notebook"] |= {"notes": notes, "marks": marks | {"positions": {}}}

    lines = shown(changed(session, tmp_path / "x.workbench", change), capsys)
    at = lines.index("marks on the circuit graph:")
    assert lines[at + 1] == "  | m0: called multiplies [red]"
    assert lines[at + 2].startswith("  | adders: a group of a0.h0, a0.h1, ")
    end = lines.index("  | embed: pinned")
    group = " ".join(line.removeprefix("  | ") for line in lines[at + 2 : end])
    assert group.endswith("a0.h18, a0.h19 and 3 more")
    assert lines[end + 1 : end + 7] == [
        f"note of {MADE}:",
        "  | one",
        "  | ",
        "  |     two",
        f"note of {MADE}:",
        "  | :smile: [b]",
    ]


def test_a_long_file_is_told_in_part_and_says_so(
    session: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(document: dict[str, Any]) -> None:
        record = document["records"][0] | {"kind": "patching", "arrays": None}
        document["records"] = [record | {"id": f"patching-{i:016x}"} for i in range(210)]
        for i, one in enumerate(document["records"][:3]):
            one["findings"] = [a_finding(f"found_{i}_{k}", 23) for k in range(90)]
        for one in document["records"][3:]:
            one["findings"] = []
        document["notebook"]["notes"] = [{"text": "x" * 20_000, "created": MADE}] * 7

    lines = shown(changed(session, tmp_path / "x.workbench", change), capsys)
    assert sum(line.startswith("  supported: found_") for line in lines) == 200
    assert sum(line.startswith("    control draw ") for line in lines) == 200 * 20
    assert lines.count("    and 3 more controls; --json lists all") == 200
    assert lines.count("  and 70 more findings; --json lists all") == 1
    assert lines.count("and 10 more records; --json lists all") == 1
    assert lines.count(f"note of {MADE}:") == 5 and "and 2 more notes; --json lists all" in lines


def saying(session: Session, text: str) -> Session:
    """The session with `text` wherever words may stand, past the checks of the file's form."""
    document = session.archive.document
    old = session.findings[0]
    control = replace(old.controls[0], name=text, unit=text)
    finding = replace(old, id=text, claim=text, controls=(control,))
    told = {"verdict": text, "reason": text}
    records = tuple(
        one.model_copy(update={"findings": (finding,), "result": one.result | told})
        for one in document.records
    )
    task = document.network.task | {"name": text, "p": text}
    marks = Marks.model_construct(
        labels={text: text},
        groups=(Group.model_construct(name=text, nodes=(text,)),),
        positions={},
        pinned=(text,),
    )
    notes = (Note.model_construct(text=text, created=MADE),)
    update = {
        "network": document.network.model_copy(update={"task": task}),
        "records": records,
        "notebook": document.notebook.model_copy(update={"notes": notes, "marks": marks}),
    }
    return Session(archive=replace(session.archive, document=document.model_copy(update=update)))


@pytest.mark.parametrize(
    "before",
    ["\n", " " * 70, "\u3042" * 35, "\u2028", "x\n\n", "\x1b[2J\r", "\u202e"],
    ids=["line", "spaces", "wide", "separator", "lines", "steering", "reordered"],
)
def test_nothing_in_a_file_passes_for_our_own_words(
    session: Session, capsys: pytest.CaptureFixture[str], before: str
) -> None:
    text = f"{before}{FORGED}"
    made = saying(session, text)
    lines = shown(made, capsys)
    assert all(line.isprintable() for line in lines)
    assert all(line.startswith(OURS) for line in lines)
    assert sum(line.startswith("  | ") for line in lines) >= 4  # three marks and the note
    squeezed = "".join("".join(line.lstrip(" |").split()) for line in lines)
    # Of three records the finding, its claim, its control with its unit; five in marks; the note.
    assert squeezed.count("5of5hold") >= 3 * 4 + 5 + 1
    replayed = [
        Replayed(record=one, state="drifted", why=text, comparison=None, seconds=0.0)
        for one in made.records
    ]
    session_console.show_replayed(replayed)
    session_console.show_changes([Change(where="notes", what=text, first=text, second=text)])
    told = capsys.readouterr().out.splitlines()
    tally, unchecked = f"0 of {len(replayed)} hold, in 0.0 s", folded(NOT_CHECKED, width=80)
    ours = ("  ", "drifted: ", "notes: ", tally, *unchecked)
    assert all(line.startswith(ours) for line in told)
    assert "".join("".join(told).split()).count("5of5hold") >= 2 * len(replayed) + 3
    assert sum(line == tally for line in told) == 1
    assert NOT_CHECKED in " ".join(told)


@pytest.mark.parametrize("n", [3, 75, 3000])
def test_a_difference_is_told_whole_at_80_columns(
    n: int, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = "7" * n, "edges: " + ", ".join(f"a0.h{i}->m0" for i in range(n // 10))
    what = "step 400, circuit eap_ig: " + "w" * n
    session_console.show_changes(
        [Change(where="circuits", what=what, first=first, second=second)] * 2
    )
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    block = lines[: len(lines) // 2]
    assert block * 2 == lines
    together = "".join(line.replace(" ", "") for line in block)
    assert together == f"circuits:{what}first:{first}second:{second}".replace(" ", "")
    starts = [
        line[:9] for line in block if line.startswith(("circuits: ", "  first: ", "  second:"))
    ]
    assert starts == ["circuits:", "  first: ", "  second:"]


def test_many_and_huge_differences_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    change = Change(where="notes", what="note", first="–", second="x" * 4005)
    session_console.show_changes([change] * 203)
    out = capsys.readouterr().out
    assert out.count("notes: note\n  first:  –\n") == 200
    assert out.endswith("\nand 3 more; --json lists all\n")
    told = "".join(out.replace("\n    ", "").splitlines()[2].split())
    assert told == f"second:{'x' * 4000}and5morecharacters;--jsonlistsall"


def test_folding_counts_cells_and_keeps_every_letter() -> None:
    wide = "\u3042" * 50  # two cells each
    lines = folded(wide, first="> ", rest="  ", width=42)
    assert [cell_len(line) for line in lines] == [42, 42, 22]
    assert [line[:2] for line in lines] == ["> ", "  ", "  "]
    assert "".join(line[2:] for line in lines) == wide
    assert folded("", first="  | ", width=80) == ["  | "]
