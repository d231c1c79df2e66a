"""What a page shows of a job, whose tab may cancel it, and how jobs stand in the address."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from apps.web.choice import RUNS
from apps.web.jobs.files import STATUS, Status, StatusFile, hold_lock, status_bytes
from apps.web.jobs.job_panel import seconds_text, state_words
from apps.web.tab import MADE, TOKEN
from tests.app.test_jobs import plant
from workbench.storage import sha256

MINE, OTHER = "a" * 32, "b" * 32
JOB = "c" * 16


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(RUNS, str(tmp_path))
    return tmp_path


@pytest.fixture
def running(runs: Path) -> Iterator[Path]:
    """The folder of a job of the tab `MINE`, which seems to run: its lock is held here."""
    folder = plant(runs, JOB)
    job = (folder / "job.json").read_text().replace("0" * 64, sha256(MINE.encode()))
    (folder / "job.json").write_text(job)
    say(folder, "running")
    lock = hold_lock(folder / "lock", wait=True)
    yield folder
    os.close(lock or 0)


def say(folder: Path, state: str, error: str | None = None) -> None:
    said = StatusFile(
        state=state,  # type: ignore[arg-type]
        done=30,
        total=120,
        doing="loss 0.5 [a](b)",
        seconds=12.0,
        error=error,
        updated=10.0**10,  # not passed yet: nothing is added
    )
    (folder / STATUS).write_bytes(status_bytes(said))


def page(job_id: str, token: str = MINE) -> AppTest:
    test = AppTest.from_function(_panel, args=(job_id,), default_timeout=30)
    test.session_state[TOKEN] = token
    return test.run()


def _panel(job_id: str) -> None:
    import streamlit as st

    from apps.web.jobs import panel

    def told(status) -> None:  # type: ignore[no-untyped-def]
        st.session_state["told"] = [*st.session_state.get("told", ()), status.id]

    status = panel(job_id, key="x", on_done=told)
    st.session_state["state"] = status.state


def words(test: AppTest) -> str:
    return " ".join(one.value for one in (*test.markdown, *test.caption))


# ---------------------------------------------------------------------- the panel


def test_a_running_job_shows_how_far_it_is(running: Path) -> None:
    drawn = page(JOB)
    assert not drawn.exception and "**Something**" in words(drawn)
    assert "Running\\: 12 s so far" in words(drawn)
    (bar,) = drawn.get("progress")
    assert bar.proto.value == 25
    assert bar.proto.text == r"30 of 120\: loss 0\.5 \[a\]\(b\)"
    assert not drawn.button[0].disabled
    assert drawn.session_state["state"] == "running"


def test_cancel_in_the_tab_that_started_it(running: Path) -> None:
    page(JOB).button[0].click().run()
    assert (running / "cancel").exists()


def test_another_tab_cannot_cancel(running: Path) -> None:
    drawn = page(JOB, OTHER)
    assert drawn.button[0].disabled
    assert "Another tab started this job" in drawn.button[0].help


def test_the_end_is_told_once(running: Path) -> None:
    drawn = page(JOB)
    assert "told" not in drawn.session_state
    say(running, "done")
    drawn.run()
    assert drawn.session_state["state"] == "done" and not drawn.button
    assert not drawn.get("progress")
    drawn.run()
    assert drawn.session_state["told"] == [JOB]
    assert not drawn.exception


def test_an_error_is_shown_as_it_is(running: Path) -> None:
    say(running, "failed", "see [here](http://x.y)")
    drawn = page(JOB)
    (shown,) = drawn.error
    assert r"\[here\]\(http\:" in shown.value  # no link: what would make one is escaped
    assert "told" not in drawn.session_state


@pytest.mark.parametrize("job_id", ["../..", "d" * 16, "x" * 5000, "<b>", "a\0b"])
def test_what_is_no_job_is_one_line(job_id: str, runs: Path) -> None:
    drawn = page(job_id)
    assert not drawn.exception and len(drawn.warning) == 1
    assert "\n" not in drawn.warning[0].value and len(drawn.warning[0].value) < 200
    assert drawn.session_state["state"] == "lost"


def test_a_damaged_job_is_one_line(running: Path) -> None:
    (running / "job.json").write_text("{")
    drawn = page(JOB)
    assert not drawn.exception and len(drawn.error) == 1
    assert drawn.button[0].disabled  # nobody knows whose it is


@pytest.mark.parametrize("state", ["running", "done", "failed", "cancelled"])
def test_what_has_ended_can_be_closed(running: Path, state: str) -> None:
    say(running, state)
    test = AppTest.from_function(_watched, args=(JOB,), default_timeout=30)
    test.query_params["jobs"] = f"{JOB},{'d' * 16}"
    test.run()
    closing = [one.key for one in test.button if one.label == "Close"]
    there = [] if state == "running" else [f"jobs_close_{JOB}"]
    assert closing == [*there, f"jobs_close_{'d' * 16}"]  # the other one is of no job
    if there:
        test.button(key=there[0]).click().run()
        assert test.query_params["jobs"] == "d" * 16
    assert not test.exception


def _watched(job_id: str) -> None:
    from apps.web.jobs import job_ids, panel

    for one in job_ids("jobs"):
        panel(one, key=f"x{one}", watched="jobs")


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200.0, "3 min 20 s"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_seconds_in_words(seconds: float, said: str) -> None:
    assert seconds_text(seconds) == said


@pytest.mark.parametrize(
    ("state", "left", "said"),
    [
        ("running", 8.2, "Running: 12 s so far, about 8 s left"),
        ("running", None, "Running: 12 s so far"),
        ("waiting", None, "Waiting"),
        ("done", None, "Done after 12 s"),
        ("cancelled", None, "Cancelled after 12 s"),
        ("lost", None, "Lost"),
    ],
)
def test_states_in_words(state: str, left: float | None, said: str) -> None:
    status = Status(
        id=JOB,
        kind="train",
        title="",
        parameters={},
        created=0.0,
        state=state,  # type: ignore[arg-type]
        progress=None,
        seconds=12.0,
        seconds_left=left,
        error=None,
        result=None,
        owner_sha256="",
    )
    assert state_words(status) == said


# ---------------------------------------------------------------------- tab and address


def test_a_tab_keeps_the_token_that_its_browser_has() -> None:
    test = AppTest.from_function(_tokens).run()
    assert not test.exception  # asked for twice in a run, too
    made = test.session_state[MADE]
    assert test.session_state["tokens"] == (made, {made}) and len(made) == 32
    test.session_state[TOKEN] = MINE
    test.run()
    assert test.session_state["tokens"] == (MINE, {made, MINE})
    assert AppTest.from_function(_tokens).run().session_state[MADE] != made


def _tokens() -> None:
    import streamlit as st

    from apps.web.tab import tab, tab_tokens

    st.session_state["tokens"] = (tab(), set(tab_tokens()))


@pytest.mark.parametrize(
    ("answer", "kept"),
    [(MINE, MINE), ("A" * 32, None), (MINE + "0", None), (7, None), (None, None)],
)
def test_only_a_token_is_taken_for_one(
    answer: object, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apps.web import tab

    state: dict[str, object] = {tab.COMPONENT: {"token": answer}}
    monkeypatch.setattr(tab.st, "session_state", state)
    tab._answered()
    assert state.get(TOKEN) == kept


def test_jobs_in_the_address() -> None:
    one, two = "1" * 16, "2" * 16
    test = AppTest.from_function(_address)
    test.query_params["jobs"] = f"{one},,{one},../..,{two}"
    test.run()
    assert test.session_state["seen"] == (one, "../..", two)
    test.session_state["add"] = "3" * 16
    test.run()
    assert test.query_params["jobs"] == f"{'3' * 16},{one},{two}"
    del test.query_params["jobs"]  # as a change of page does
    test.run()
    assert test.session_state["seen"] == ("3" * 16, one, two)
    assert test.query_params["jobs"] == f"{'3' * 16},{one},{two}"
    for drop in ("3" * 16, one, two):
        test.session_state["drop"] = drop
        test.run()
    assert "jobs" not in test.query_params


def _address() -> None:
    import streamlit as st

    from apps.web.jobs import job_ids, unwatch, watch

    st.session_state["seen"] = job_ids("jobs")
    if "add" in st.session_state:
        watch("jobs", st.session_state["add"])
        del st.session_state["add"]
    if "drop" in st.session_state:
        unwatch("jobs", st.session_state["drop"])
        del st.session_state["drop"]
