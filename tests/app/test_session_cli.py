"""`workbench session`, as a person types it: the happy way and the unhappy ones."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from apps import cli
from apps.session_console import all_hold
from apps.session_targets import LIMIT
from tests.session.saved import LAST, forged, run_with_findings, with_record
from workbench.progress import Progress
from workbench.session import open_session, replaying
from workbench.session.replaying import Replayed


class Said(NamedTuple):
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str


class Run(NamedTuple):
    """`workbench session WORDS`, or any command."""

    command: Callable[..., Said]

    def __call__(self, *words: str) -> Said:
        return self.command("session", *words)


@pytest.fixture
def workbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    run_with_findings(tmp_path / "runs" / "small")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def command(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["workbench", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        status = end.value.code
        assert isinstance(status, int)
        return Said(status, captured.out, captured.err)

    return Run(command)


@pytest.fixture
def saved(workbench: Run) -> str:
    assert (
        workbench("save", "small", "-o", "a.workbench", "--note", "look [bold]here[/bold]").status
        == 0
    )
    return "a.workbench"


def test_from_saving_to_opening(workbench: Run, tmp_path: Path) -> None:
    said = workbench("save", "runs/small", "-o", "a.workbench")
    assert said.status == 0 and said.out.startswith("a.workbench: 3 findings, ")
    assert "workbench session replay a.workbench" in said.out
    shown = workbench("show", "a.workbench")
    assert shown.status == 0 and "modular_addition" in shown.out and "patch_head" in shown.out
    assert "runner-up" in shown.out  # no number without its control
    assert "nothing is known of who wrote this" in shown.out
    verified = workbench("verify", "a.workbench")
    assert verified.status == 0 and "not who wrote it" in " ".join(verified.out.split())
    replayed = workbench("replay", "a.workbench", "-q")
    assert replayed.status == 0 and "3 of 3 hold" in replayed.out
    opened = workbench("open", "a.workbench", "--json")
    run = json.loads(opened.out)["run"]
    assert (tmp_path / run / "records").is_dir()
    again = workbench("save", run, "-o", "b.workbench", "--json")
    assert json.loads(again.out)["id"] == open_session("b.workbench").id
    assert workbench("diff", "a.workbench", "b.workbench").out == "the two hold the same\n"


def test_a_session_that_drifted_ends_with_status_3(
    workbench: Run, saved: str, tmp_path: Path
) -> None:
    session = open_session(saved)

    def change(data: dict[str, Any]) -> None:
        data["findings"][0]["value"] += 1.0

    forged(session, tmp_path / "b.workbench", lambda d: with_record(d, 0, change))
    said = workbench("replay", "b.workbench", "-q")
    assert said.status == 3 and "2 of 3 hold" in said.out
    assert "drifted: patching at step 1: patch_head\n  why: findings.0.value: " in said.out
    told = json.loads(workbench("replay", "b.workbench", "-q", "--json").out)
    assert told["holds"] is False
    drifted = [one for one in told["replayed"] if one["state"] == "drifted"]
    assert len(drifted) == 1 and drifted[0]["differences"][0]["by"] == pytest.approx(1.0)
    ids = [finding.id for finding in session.records[1].findings]
    alone = workbench("replay", "b.workbench", "-q", "--only", session.records[1].id)
    assert alone.status == 0 and ids[0] in alone.out


def test_json_is_one_line_for_a_program(workbench: Run, saved: str) -> None:
    for words in (
        ("show", saved),
        ("verify", saved),
        ("replay", saved, "-q"),
        ("diff", saved, saved),
    ):
        said = workbench(*words, "--json")
        assert said.status == 0 and said.out.count("\n") == 1 and not said.err
        json.loads(said.out)
    shown = json.loads(workbench("show", saved, "--json").out)
    assert [record["step"] for record in shown["records"]].count(LAST) == 2
    assert shown["notebook"]["notes"][0]["text"] == "look [bold]here[/bold]"


def test_foreign_text_is_shown_as_it_is(workbench: Run, saved: str) -> None:
    assert "look [bold]here[/bold]" in workbench("show", saved).out


def test_a_replay_says_what_it_does_not_check(workbench: Run, saved: str) -> None:
    for said in (workbench("replay", saved, "-q"), workbench("replay", "--help")):
        text = " ".join(said.out.replace("│", " ").split())
        assert said.status == 0
        assert "does not check step numbers, the training curve and how the network was" in text
        assert "notes and marks, or who made the file, when and with what" in text


def test_nothing_to_replay_is_not_a_success(workbench: Run, saved: str, tmp_path: Path) -> None:
    forged(
        open_session(saved),
        tmp_path / "none.workbench",
        lambda document: document.model_copy(update={"records": ()}),
    )
    said = workbench("replay", "none.workbench", "-q")
    assert said.status == 3 and said.out == "nothing to replay: it holds no findings\n"
    told = workbench("replay", "none.workbench", "-q", "--json")
    assert told.status == 3 and json.loads(told.out)["holds"] is False
    shown = workbench("show", "none.workbench")
    assert shown.status == 0 and "\nno findings\n" in shown.out


def test_answers_without_a_finding_hold_no_claim(
    workbench: Run, saved: str, tmp_path: Path
) -> None:
    def change(data: dict[str, Any]) -> None:
        data["findings"] = []

    bare = forged(
        open_session(saved), tmp_path / "bare.workbench", lambda d: with_record(d, 0, change)
    )
    said = workbench("replay", "bare.workbench", "-q", "--only", bare.records[0].id)
    assert said.status == 3 and "patching at step 1: no finding\n" in said.out
    assert all_hold([]) is False
    kept = [
        Replayed(record=one, state="holds", why="", comparison=None, seconds=0.0)
        for one in bare.records
    ]
    assert all_hold(kept[:1]) is False and all_hold(kept) is True
    assert all_hold([*kept, replace(kept[1], state="drifted")]) is False


def test_how_long_a_record_may_take_reaches_the_replay(
    workbench: Run, saved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def fake(session: Any, *, device: Any, only: Any, limit: float) -> Iterator[Progress]:
        asked.append(limit)
        yield Progress(1, 1, "done")
        return []

    monkeypatch.setattr(replaying, "replay_steps", fake)
    workbench("replay", saved, "-q")
    workbench("replay", saved, "-q", "--limit", "7")
    workbench("export", saved, "-q", "--replay", "-o", "page.html", "--limit", "8")
    workbench("export", saved, "-q", "--replay", "-o", "page.html")
    assert asked == [600, 7, 8, 600] and replaying.LIMIT == LIMIT
    assert workbench("replay", saved, "-q", "--limit", "0").status == 2
    assert len(asked) == 4


def test_a_stopped_replay_says_what_is_true(
    workbench: Run, saved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: Any, **options: Any) -> Iterator[Progress]:
        yield Progress(0, 1, "reading")
        raise KeyboardInterrupt

    monkeypatch.setattr(replaying, "replay_steps", stopped)
    said = workbench("replay", saved, "-q")
    assert said.status == 130 and said.out == ""
    told = "nothing that was saved is damaged: give the same command again to finish"
    assert said.err == f"error: stopped; {told}\n"


def test_a_run_of_a_session_is_listed_as_such(workbench: Run, saved: str) -> None:
    assert workbench("open", saved).status == 0
    rows = json.loads(workbench.command("runs", "--json").out)
    states = {Path(row["run"]).name: row["state"] for row in rows}
    opened = [name for name in states if "-session-" in name]
    assert len(states) == 2 and len(opened) == 1
    assert states[opened[0]] == "from a session" and states["small"] == "complete"


def test_no_page_is_written_of_a_damaged_file(workbench: Run, saved: str, tmp_path: Path) -> None:
    session = open_session(saved)
    name = next(one for one in session.archive.entries if "weights" in one)
    data = bytearray((tmp_path / saved).read_bytes())
    data[session.archive.entries[name].stop - 1] ^= 1
    (tmp_path / "bad.workbench").write_bytes(bytes(data))
    assert workbench("show", "bad.workbench").status == 0  # it reads no weights
    for output in ("page.html", "graph.json"):
        said = workbench("export", "bad.workbench", "-o", output)
        assert said.status == 2 and name in said.err and "digest" in said.err
        assert not (tmp_path / output).exists()


def test_the_page(workbench: Run, saved: str, tmp_path: Path) -> None:
    said = workbench("export", saved, "-o", "page.html")
    assert said.status == 0 and said.out == "page.html\n"
    page = (tmp_path / "page.html").read_text()
    assert page.lower().startswith("<!doctype html>") and "patch_head" in page


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("save", "small", "-o", "a.zip"), "-o a.zip: end its name in .workbench"),
        (("save", "small", "-o", "no/a.workbench"), "there is no folder no; make it first"),
        (("save", "nothing", "-o", "a.workbench"), "no run 'nothing'"),
        (("save", "small", "-o", "b.workbench", "--only", "x"), "no finding 'x'"),
        (("save", "small", "-o", "b.workbench", "--only", "a,,b"), "--only with an empty name"),
        (("save", "small", "-o", "b.workbench", "--note", "\x1b[31m"), "U+001B is not allowed"),
        (("show", "nothing.workbench"), "nothing.workbench"),
        (("verify", "runs"), "runs"),
        (("replay", "runs/small/config.json"), "config.json"),
        (("diff", "a.workbench", "b.workbench"), "b.workbench"),
        (("export", "a.workbench", "-o", "page.txt"), "end its name in .html"),
        (("export", "a.workbench", "-o", "p.html", "--only", "x"), "--only names the circuit of a"),
        (("export", "a.workbench", "-o", "g.json", "--replay"), "--replay is for a page; drop it"),
        (("export", "a.workbench", "-o", "p.html", "--limit", "9"), "--limit is for a replay"),
        (("export", "a.workbench", "-o", f"{'x' * 300}.html"), "a name of 305 bytes; choose one"),
        (("save", "small", "-o", f"{'é' * 100}.workbench"), "a name of 210 bytes; choose one of"),
        (("save", "small", "-o", f"{'x/' * 2100}y.workbench"), "a path of 4211 bytes; choose one"),
        (("export", "a.workbench", "-o", f"{'x' * 300}/p.html"), "-o xxx"),
        (("save", "small", "-o", "b.workbench", "--note", ""), "--note is empty; write something"),
        (("save", "small", "-o", "b.workbench", "--note", " \n"), "--note is empty; write"),
        (("open", "junk.workbench"), "junk.workbench"),
        (("opn", "a.workbench"), "opn"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    workbench: Run, saved: str, tmp_path: Path, words: tuple[str, ...], complaint: str
) -> None:
    (tmp_path / "junk.workbench").write_bytes(b"PK\x03\x04 this is no archive")
    before = sorted(path.name for path in tmp_path.iterdir())
    said = workbench(*words)
    assert said.status == 2 and said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert complaint in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_installed_command(workbench: Run, saved: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "apps", "session", "verify", saved],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "session.json" in done.stdout


def test_a_circuit_goes_to_the_graph_viewer_and_comes_back(
    workbench: Run, saved: str, tmp_path: Path
) -> None:
    """As a Neuronpedia graph, from a session; and judged again from that file."""
    assert workbench("export", saved, "-o", "graph.json").status == 2  # it holds no circuit
    found = workbench.command("circuit", "runs/small", "--edges", "3", "--pairs", "16", "-q")
    assert found.status == 0, found.err
    assert workbench("save", "small", "-o", "b.workbench").status == 0
    assert workbench("export", "b.workbench", "-o", "graph.json").status == 0
    graph = json.loads((tmp_path / "graph.json").read_text())
    assert (
        len(graph["links"]) <= 3 and graph["metadata"]["info"]["generator"]["name"] == "workbench"
    )
    direct = ("circuit", "runs/small", "--edges", "3", "--pairs", "16", "-q", "--out", "same.json")
    assert workbench.command(*direct).status == 0
    assert json.loads((tmp_path / "same.json").read_text()) == graph
    judged = workbench.command("circuit", "runs/small", "--given", "graph.json", "-q", "--json")
    assert judged.status == 0, judged.err
    (record,) = [one for one in open_session("b.workbench").records if one.kind == "circuit"]
    rows = record.result["edge_list"]
    assert isinstance(rows, list)
    assert json.loads(judged.out)["edges"] == 3 == len(rows)
    assert workbench("save", "small", "-o", "c.workbench").status == 0
    two = workbench("export", "c.workbench", "-o", "graph.json")
    assert two.status == 2 and "2 are meant (circuit_eap_ig_3_edges, evaluation_" in two.err
    name = "circuit_eap_ig_3_edges"
    assert workbench("export", "c.workbench", "-o", "again.json", "--only", name).status == 0
    assert json.loads((tmp_path / "again.json").read_text()) == graph


def test_the_report_of_an_opened_run_says_whose_word_it_is(
    workbench: Run, saved: str, tmp_path: Path
) -> None:
    run = json.loads(workbench("open", saved, "--json").out)["run"]
    said = workbench.command("explain", run, "--draws", "2", "-q", "--json")
    assert said.status == 0, said.err
    document = json.loads(said.out)
    assert document["session"] == open_session(saved).id
    assert {"patch_head", "patch_mlp_out"} < {finding["id"] for finding in document["findings"]}
    page = (tmp_path / run / "report.html").read_text()
    assert "Opened from session" in page and "author's word" in page
    own = json.loads(workbench.command("explain", "small", "--draws", "2", "-q", "--json").out)
    assert own["session"] is None
    assert "Opened from session" not in (tmp_path / "runs/small/report.html").read_text()
    listed = workbench.command("runs", "--json")
    states = {Path(row["run"]).name: row["state"] for row in json.loads(listed.out)}
    assert states == {"small": "complete", Path(run).name: "from a session"}
