"""The page of a session: every number beside its control, and text from strangers only as text."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from apps import session_page_findings, session_page_made, session_page_replayed
from apps.page import plain
from apps.session_page import session_page
from apps.session_page_replayed import NOT_CHECKED
from tests.app.small_session import (
    DRAWN,
    NOTE,
    PAYLOADS,
    assert_inert,
    changed,
    hostile_session,
    parts,
    small_session,
    text_of,
)
from tests.app.test_report import Page, a_finding
from workbench.session import Session, open_session
from workbench.session.comparing import Comparison, Difference
from workbench.session.replaying import Replayed
from workbench.session.schema import TRAINING, arrays_path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return small_session(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="module")
def html(session: Session) -> str:
    return session_page(session)


# ---------------------------------------------------------------------- every number


def test_every_finding_stands_beside_its_controls(session: Session, html: str) -> None:
    text = text_of(html)
    for finding in session.findings:
        assert finding.claim in text and finding.rule in text and finding.measure in text
        at = text.index(finding.claim)
        end = text.index("supported", at + len(finding.claim + finding.rule))
        for control in finding.controls:
            after = text.index(control.name, end)
            assert after - end < 700
    for name in ("sufficiency", "formula"):
        assert f"{name} draws 0.0171 [0.0156, 0.0187] 23 draws" in text
        assert f"{name} network −3.2500 — 1,044 inputs" in text
    assert text.count("0.9321 — 3,481 0.9102 ● supported") == 2


def test_header_says_what_of_whom_and_with_what(session: Session, html: str) -> None:
    header = text_of(html[html.index("<header>") : html.index("</header>") + 9])
    assert "Modular addition, p = 5" in header and "p = 5" in header and "Seed 3" in header
    assert session.id in header and "Made from session none" in header
    created = session.manifest.created
    assert f"{created[:10]} {created[11:19]} UTC" in header
    assert f"torch {torch.__version__}" in header
    n = len(session.findings)
    supported = sum(finding.verdict == "supported" for finding in session.findings)
    assert f"{n} findings: {supported} supported" in header
    assert "◐ partial 1 of 2 findings is supported" in header


def test_every_record_is_told_with_what_it_was_asked(session: Session, html: str) -> None:
    text = text_of(html)
    for record in session.records:
        assert f"Kind {record.kind} Record {record.id}" in text
    assert "seed = 0, n_draws = 20" in text and "Took 1.2 s" in text
    assert (
        "* within 0.001 + 0.002 × |recorded|; of the recorded tolerance and this Workbench's own "
        "the tighter counts" in text
    )
    assert "cannot be drawn" not in text and "does not know" not in text
    assert "This record" not in text
    by_kind = {record.kind: part for record, part in zip(session.records, parts(html), strict=True)}
    assert by_kind["patching"].count("<svg") >= 1 and "effects as numbers" in by_kind["patching"]
    assert "12 of" in by_kind["circuit"] and "edges as numbers" in by_kind["circuit"]
    for picture in ("Every input", "Spectra", "The formula", "Parts", "Neurons"):
        assert f"<h3>{picture}</h3>" in by_kind["mechanism"]


def test_how_it_was_made_and_how_to_check_it(session: Session, html: str) -> None:
    text = text_of(html)
    assert "name = fast, lr = 0.01" in text and "Trained on 0.4000 of the inputs" in text
    assert str(session.network.split_sha256) in text
    for one in session.archive.document.checkpoints:
        assert one.weights_sha256 in text
    for member in session.manifest.members:
        assert member.path in text and member.sha256 in text
    for verb in ("verify", "replay", "open"):
        assert f"workbench session {verb} small.workbench" in text
    assert str(session.path.parent) not in text


# ---------------------------------------------------------------------- what it is worth


def test_what_was_not_run_again_is_said_so(html: str) -> None:
    text = text_of(html)
    assert "Nothing on this page was run again when it was made." in text
    assert "They do not show who wrote it" in text
    assert "What became of it here" not in text


def test_what_was_run_again_is_told_finding_by_finding(session: Session) -> None:
    by_kind = {record.kind: record for record in session.records}
    formula = [finding.id for finding in by_kind["mechanism"].findings].index("formula")
    apart = Difference(
        path=f"findings.{formula}.value", recorded=0.9321, replayed=0.5, by=0.4321, allowed=0.001
    )
    replayed = [
        Replayed(
            record=by_kind["mechanism"],
            state="drifted",
            why=str(apart),
            comparison=Comparison(n=3, differences=(apart,), closeness=0.0),
            seconds=1.0,
        ),
        Replayed(
            record=by_kind["circuit"],
            state="cannot run",
            why="no <b>method</b>",
            comparison=None,
            seconds=0.0,
        ),
        Replayed(
            record=by_kind["patching"],
            state="holds",
            why="",
            comparison=Comparison(n=3, differences=(), closeness=0.5),
            seconds=1.0,
        ),
    ]
    html = session_page(session, replayed=replayed)
    text = text_of(html)
    assert "Nothing on this page was run again" not in text
    assert "1 drifted, 1 cannot run, 1 holds" in text
    assert f"formula ◐ drifted {apart}" in text
    assert "sufficiency ◐ drifted its own numbers agree; something else in its record" in text
    assert "○ cannot run no <b>method</b>" in text and "<b>" not in html
    assert "the whole record ● holds within the tolerances" in text
    assert "of the recorded tolerance and this Workbench's own the tighter counts" in text
    assert text.count(NOT_CHECKED) == 2  # beside the states, and where it says how to replay


# ---------------------------------------------------------------------- strangers


@pytest.mark.parametrize("keep", [DRAWN, ()])
def test_script_in_every_field_stays_text(
    session: Session, tmp_path: Path, keep: tuple[str, ...]
) -> None:
    hostile = hostile_session(session, tmp_path / "hostile.workbench", keep)
    html = session_page(hostile)
    page = assert_inert(html)
    for payload in PAYLOADS:
        assert page.text.count(payload) >= 10, payload
    assert ("cannot be drawn" in page.text) is (not keep)
    assert "HIDDEN VIEW STATE" not in html


def test_a_page_of_ours_is_inert_and_sealed(html: str) -> None:
    page = assert_inert(html)
    assert "http" not in html.replace("http-equiv", "")
    metas = {m.get("http-equiv") or m.get("name"): m.get("content") for m in page.named("meta")}
    assert metas["referrer"] == "no-referrer"
    policy = metas["Content-Security-Policy"]
    assert re.fullmatch(
        r"default-src 'none'; script-src 'none'; style-src 'sha256-[\w+/]{43}='; img-src data:; "
        r"base-uri 'none'; form-action 'none'",
        policy or "",
    )


def test_a_hostile_file_name_is_quoted(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "a;rm -rf ~<b>'.workbench"
    path.write_bytes(session.path.read_bytes())
    html = session_page(open_session(path))
    assert_inert(html)
    assert """workbench session replay 'a;rm -rf ~<b>'"'"'.workbench'""" in text_of(html)


def test_notes_keep_their_lines_and_nothing_else(html: str) -> None:
    assert NOTE.replace("<", "&lt;").replace(">", "&gt;") in html
    assert ".written { white-space: pre-wrap" in html
    assert plain("a\u3000b\u00a0c\td\n") == "a\u3000b\u00a0c\td\n"
    assert plain("\u2028\x0b\x1f\x85<") == "\\u{2028}\\u{b}\\u{1f}\\u{85}&lt;"


# ---------------------------------------------------------------------- damaged or unknown


def test_a_kind_from_the_future_is_shown_as_its_json(session: Session, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        record = next(one for one in document["records"] if one["kind"] == "mechanism")
        record |= {"kind": "telepathy", "id": "telepathy-0123456789abcdef", "arrays": None}
        record["parameters"] = {"crystal": "ball", "depth": 7}
        record["findings"] = [a_finding("tea_leaves", claim="the leaves say so")]

    text = text_of(session_page(changed(session, tmp_path / "x.workbench", change)))
    assert "does not know this kind of analysis" in text
    assert "crystal = ball, depth = 7" in text and '"depth": 7' in text
    assert "the leaves say so" in text and "tea_leaves draws 0.0171" in text
    assert '"verdict": "partial"' in text


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("mechanism", {"accuracy": 1e300, "n_inputs": 10**39, "exhaustive": True}),
        ("mechanism", {"parts": {"planes": [{"frequency": "x"}]}, "key_frequencies": ["x"]}),
        ("patching", {"site": "head", "axes": ["layer"], "rows": [7]}),
        ("circuit", {"edge_list": [{"edge": "a9.h9->m0"}], "edges": 1}),
    ],
)
def test_a_damaged_result_is_told_and_the_page_stands(
    session: Session, tmp_path: Path, kind: str, result: dict[str, Any]
) -> None:
    def change(document: dict[str, Any]) -> None:
        next(one for one in document["records"] if one["kind"] == kind)["result"] = result

    html = session_page(changed(session, tmp_path / "x.workbench", change))
    damaged = [part for part in parts(html) if "This record cannot be drawn" in part]
    assert len(damaged) == 1 and f"<code>{kind}</code>" in damaged[0]
    assert "How to check it yourself" in html


def test_damaged_arrays_are_told_and_the_page_stands(session: Session, tmp_path: Path) -> None:
    data = bytearray(session.path.read_bytes())
    for name in (TRAINING, arrays_path(session.records[0].id)):
        data[session.archive.entries[name].stop - 1] ^= 1
    (tmp_path / "bad.workbench").write_bytes(bytes(data))
    text = text_of(session_page(open_session(tmp_path / "bad.workbench")))
    assert text.count("This record cannot be drawn") == 1
    assert "What training recorded cannot be drawn" in text and "digest" in text


def test_a_long_session_is_told_whole_and_drawn_in_part(session: Session, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        record = next(one for one in document["records"] if one["kind"] == "patching")
        record |= {"arrays": None, "findings": []}
        document["records"] = [record | {"id": f"patching-{i:016x}"} for i in range(70)]

    html = session_page(changed(session, tmp_path / "x.workbench", change))
    assert html.count("Its pictures are left out") == 10
    assert "Patching, head (70)" in html and f"patching-{69:016x}" in html


def test_of_many_findings_the_first_are_listed_and_how_many_more(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_page_findings, "FINDINGS", 3)
    monkeypatch.setattr(session_page_findings, "CONTROLS", 4)
    monkeypatch.setattr(session_page_findings, "BARS", 2)
    monkeypatch.setattr(session_page_replayed, "LISTED", 3)
    control = {"value": 0.5, "n": 7, "interval": None, "unit": "draws"}

    def change(document: dict[str, Any]) -> None:
        record = next(one for one in document["records"] if one["kind"] == "patching")
        document["records"] = [
            record | {"id": f"patching-{i:016x}", "arrays": None} for i in (1, 2)
        ]
        for i, one in enumerate(document["records"]):
            one["findings"] = [
                a_finding(f"found_{i}_{k}")
                | {"controls": [control | {"name": f"beside {c}"} for c in range(9)]}
                for k in range(5)
            ]

    many = changed(session, tmp_path / "x.workbench", change)
    replayed = [
        Replayed(
            record=record,
            state="holds",
            why="",
            comparison=Comparison(n=3, differences=(), closeness=0.0),
            seconds=1.0,
        )
        for record in many.records
    ]
    html = session_page(many, replayed=replayed)
    text = text_of(html)
    told = text[text.index("What is claimed, and what should") : text.index("Beside the controls")]
    assert [told.count(f"claim of found_0_{k}") for k in range(5)] == [1, 1, 1, 0, 0]
    assert told.count("beside 3 0.5000") == 3 and "beside 4" not in text
    assert "Left out here: 2 more findings, 5 more controls of found_0_0 , 5 more" in told
    assert "Left out here: 5 more findings; workbench session show --json lists all" in told
    assert "Of each finding the first 2 controls are drawn." in text
    assert html.count('class="control"') < 100 and "And 7 more findings." in text
    assert text.count("found_0_2 ● holds") == 1 and "found_0_3 ● holds" not in text


def test_of_very_long_notes_the_first_are_shown_and_how_many_more(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_page_made, "WRITTEN", 10)
    monkeypatch.setattr(session_page_made, "NODES", 2)

    def change(document: dict[str, Any]) -> None:
        written = ("123456", "7890", "x")
        made = "2026-11-20T18:53:06Z"
        document["notebook"]["notes"] = [{"text": one, "created": made} for one in written]
        nodes = ["a0.h0", "a0.h1", "m0"]
        document["notebook"]["marks"]["groups"] = [{"name": "adders", "nodes": nodes}]

    html = session_page(changed(session, tmp_path / "x.workbench", change))
    written = re.findall(r'<div class="written">(.*?)</div>', html)
    assert written == ["123456", "7890"] and "And 1 more notes, in the file." in html
    assert "adders a0.h0 , a0.h1 and 1 more" in text_of(html)


def test_a_session_without_findings_or_records(session: Session, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["records"], document["notebook"]["notes"] = [], []
        document["network"] |= {"recipe": None, "seed": None, "train_fraction": None}
        document["network"] |= {"split_sha256": None, "source": {"paper": "of somebody"}}

    text = text_of(session_page(changed(session, tmp_path / "x.workbench", change)))
    assert "There are no findings." in text and "Notes" not in text
    assert "Recipe none is known" in text and "paper = of somebody" in text


# ---------------------------------------------------------------------- reading


def test_page_reads_without_colour_sight_or_light(html: str) -> None:
    page = Page(html)
    assert all(image["alt"] for image in page.named("img"))
    assert all(svg["aria-label"] and svg["role"] == "img" for svg in page.named("svg"))
    assert all(head.get("scope") in ("col", "row") for head in page.named("th"))
    assert page.named("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert "prefers-color-scheme: dark" in html and "@media print" in html
