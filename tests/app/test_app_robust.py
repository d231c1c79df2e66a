"""Whatever the address says and whatever lies in the runs folder: one line, and a page that works.

Values of addresses are drawn with a fixed seed; every file that is opened meanwhile is watched.
"""

import ast
import logging
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import apps.web.choice as choosing
from apps.web.choice import run_names
from apps.web.shell import ONE_OF, OURS
from apps.web.view import ordered
from tests.app.app_folder import FRESH, FULL, opened

ROOT = Path(__file__).parents[2]
SECTIONS = {
    "network": ("network_section", "Answers Training Attention Logit_lens Spectra Neurons"),
    "trace": ("trace_section", "Effects Circuit Compare"),
    "probes": ("probes_section", "This_network Across_training Sweeps"),
    "findings": ("section", "network open compare"),
    "parts": ("run", FULL),
    "train": ("run", FULL),
}
PLACES = [
    (page, key, value.replace("_", " "))
    for page, (key, values) in SECTIONS.items()
    for value in values.split()
]
"""Every page and each of its sections: its key in the address, and its value."""
HOSTILE = (
    *("", "0", "-1", "3", "999999999", "9999999999", str(10**30), str(-(10**30)), "1.5", "nan"),
    *("inf", "-inf", "1e999", "true", "None", "[]", "{}", "0 3", "../../etc/passwd", "/etc/passwd"),
    *("..", "a\0b", "\u202eabc\u2066", "<script>alert(1)</script>", "![](http://x.test/a.png)"),
    *("\u00fcn\u00ef\U0001f600", "a\nb", "x" * 5000, "'\"`$", "%00", "a0.h0", "m0->logits"),
    *("0" * 16, "0" * 32, "f" * 64, "\u0661", "\u00b2"),
)
KEYS = sorted(
    {
        found
        for path in (ROOT / "apps" / "web").rglob("*.py")
        for found in re.findall(
            r'"((?:train|trace|network|parts|probes|findings)(?:_[a-z0-9_]+)?)"', path.read_text()
        )
    }
)
"""Whatever may be a name in an address."""

_watched: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        _watched.append(os.fsdecode(arguments[0]))
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        _watched.append(f"{event} {arguments[1:]}")


sys.addaudithook(_audit)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """What is opened, and where to a connection is made."""
    global _watched
    _watched = []
    yield _watched
    _watched = None


def assert_one_line(page: AppTest, where: object = "") -> None:
    assert [one.message for one in page.exception] == [], where
    for error in page.error:
        assert error.value != OURS, where
        assert "\n" not in error.value and ".py" not in error.value, where
    assert page.title[0].value, where


# ---------------------------------------------------------------------- addresses


@pytest.mark.parametrize(("page", "key", "section"), PLACES)
def test_no_address_breaks_a_page_or_opens_another_file(
    page: str,
    key: str,
    section: str,
    app_folder: Path,
    watched: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    draws = random.Random(f"{page} {section}")
    own = [one for one in KEYS if one.split("_")[0] == page]
    opened(page, app_folder, **({"run": FULL} | {key: section}))  # what is imported at first
    watched.clear()
    for _ in range(2):
        address = {name: draws.choice(HOSTILE) for name in own if draws.random() < 0.5}
        address |= {
            name: draws.choice(HOSTILE) for name in ("step", "clean", "corrupted", "session")
        }
        address |= {"run": draws.choice((FULL, FRESH, *HOSTILE)), key: section}
        assert_one_line(opened(page, app_folder, **address), address)
    assert OURS not in caplog.text and "while drawing a page" not in caplog.text
    assert not [one for one in watched if one.startswith("socket")]
    temporary = [f"{tempfile.gettempdir()}/{name}" for name in ("tmp", "workbench-save-")]
    allowed = (
        str(app_folder / "runs"),
        sys.prefix,
        sys.base_prefix,
        str(ROOT),
        *temporary,
    )
    assert [one for one in watched if not one.startswith(allowed) and one.startswith("/")] == []
    assert not any("passwd" in one for one in watched)


def test_the_watch_sees_what_it_should(app_folder: Path, watched: list[str]) -> None:
    Path("/etc/passwd").read_bytes()
    assert "/etc/passwd" in watched


@pytest.mark.parametrize(("page", "key", "section"), PLACES)
def test_empty_and_infinite_values_count_as_none(
    page: str, key: str, section: str, app_folder: Path
) -> None:
    own = [name for name in KEYS if name.split("_")[0] == page]
    for value in ("", "inf"):
        address = dict.fromkeys(own, value)
        assert_one_line(opened(page, app_folder, **(address | {"run": FULL, key: section})), value)


def test_every_control_of_one_of_several_is_known() -> None:
    """`ONE_OF` holds the keys of all controls that must not be emptied by an address."""
    for path in (ROOT / "apps").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            named = {one.arg: one.value for one in call.keywords}
            key = named.get("key")
            if {"required", "bind"} <= set(named) and isinstance(key, ast.Constant):
                assert key.value in ONE_OF, f"{path.name}: {key.value}"


# ---------------------------------------------------------------------- names


NAMES = (
    "<script>alert(1)<", "a\"b'c`d", "a\nb", "\u202eabc\u2066", "![x](http:x)", ":red[x] $x^2$",
    "a&b=c?d#e%2F", "\u00fcn\u00ef\U0001f600", " lead ", "x" * 200,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_any_name_is_shown_by_it(name: str, app_folder: Path) -> None:
    (app_folder / "runs" / FRESH).rename(app_folder / "runs" / name)
    for page in ("train", "findings"):
        shown = opened(page, app_folder, run=name)
        assert_one_line(shown)
        assert [error.value for error in shown.error] == []
    assert shown.query_params["run"] in (name, [name])


def test_a_name_that_is_no_text_hides_no_other_run(app_folder: Path) -> None:
    runs = os.fsencode(app_folder / "runs")
    try:
        (app_folder / "runs" / "imported").rename(os.fsdecode(runs + b"/\xff\xfe"))
    except OSError:
        pytest.skip("this file system has text names alone: nothing to check")
    assert sorted(run_names()) == [FRESH, FULL]
    for page, _ in ordered():
        assert_one_line(opened(page, app_folder, run=FULL))


# ---------------------------------------------------------------------- damage


def test_a_run_that_cannot_be_looked_into_hides_no_other(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = choosing.is_run

    def refusing(path: Path) -> bool:
        if path.name == FRESH:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(choosing, "is_run", refusing)
    assert FRESH not in run_names() and FULL in run_names()
    shown = opened("network", app_folder, run=FULL)
    assert [error.value for error in shown.error] == []


def test_a_run_that_goes_while_the_runs_are_listed_hides_no_other(
    app_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = choosing.is_run

    def removing(path: Path) -> bool:
        found = original(path)
        if path.name == FRESH:
            shutil.rmtree(path)
        return found

    monkeypatch.setattr(choosing, "is_run", removing)
    assert FRESH not in run_names() and FULL in run_names()


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def every(pattern: str, damage: Callable[[Path], object]) -> Callable[[Path], None]:
    def damaging(run: Path) -> None:
        for path in list(run.glob(pattern)):
            damage(path)

    return damaging


DAMAGE: dict[str, Callable[[Path], object]] = {
    "manifest": every("manifest.json", halved),
    "records": every("records/*.json", halved),
    "arrays": every("records/*.safetensors", halved),
    "arrays gone": every("records/*.safetensors", Path.unlink),
    "notebook": lambda run: (run / "notebook.json").write_text('{"notes": ['),
    "checkpoints": every("checkpoints/*", halved),
    "metrics": every("metrics.jsonl", halved),
    "drafts": lambda run: (run / "drafts").write_text("no folder"),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_one_line_and_another_run_can_be_chosen(
    damage: Callable[[Path], object], app_folder: Path
) -> None:
    logging.getLogger("apps.web.shell").setLevel(logging.CRITICAL)
    for name in ("network", "findings"):
        runs = app_folder / "runs"
        shutil.rmtree(runs / "looked-at", ignore_errors=True)
        shutil.copytree(runs / FULL, runs / "looked-at")
        page = opened(name, app_folder, run="looked-at")
        damage(runs / "looked-at")  # while it is looked at
        assert_one_line(page.run(), name)
        page.sidebar.selectbox[0].select(FULL).run()
        assert [error.value for error in page.error] == []


@pytest.mark.parametrize("damage", ["records", "notebook"])
def test_damaged_findings_hide_no_answers(damage: str, app_folder: Path) -> None:
    DAMAGE[damage](app_folder / "runs" / FULL)
    page = opened("network", app_folder, run=FULL)
    assert_one_line(page)
    assert len(page.error) == (damage == "records")
    assert [one.label for one in page.text_input] == ["Input looked at"]  # what comes below
