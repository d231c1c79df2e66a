"""Every page, with no run, a fresh run, an imported network and a run with every kind of record."""

from pathlib import Path

import pytest

from apps.web.shell import OURS
from apps.web.view import ordered
from tests.app.app_folder import FRESH, FULL, IMPORTED, opened

PAGES = [name for name, _ in ordered()]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("run", [FRESH, FULL, IMPORTED])
def test_a_page_draws_every_kind_of_run(page: str, run: str, app_folder: Path) -> None:
    drawn = opened(page, app_folder, run=run)
    assert not drawn.exception
    assert [error.value for error in drawn.error] == []
    assert drawn.title[0].value


@pytest.mark.parametrize("page", PAGES)
def test_a_page_without_any_run_says_how_to_get_one(page: str, empty_folder: Path) -> None:
    drawn = opened(page, empty_folder)
    assert not drawn.exception
    assert [error.value for error in drawn.error] == []
    words = " ".join(
        [one.value for one in (*drawn.info, *drawn.markdown)] + [one.label for one in drawn.button]
    )
    assert "rain" in words  # train one, or: a button that trains


@pytest.mark.parametrize("page", PAGES)
def test_a_run_that_does_not_exist_is_one_line(page: str, app_folder: Path) -> None:
    drawn = opened(page, app_folder, run="../../etc/passwd")
    assert not drawn.exception
    assert OURS not in [error.value for error in drawn.error]


def test_pages_stand_in_one_order() -> None:
    order = [view.order for _, view in ordered()]
    assert len(set(order)) == len(order)
