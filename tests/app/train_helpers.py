"""What the tests of the Train page share."""

from streamlit.testing.v1 import AppTest

from apps.web.tab import TOKEN
from tests.app.test_job_panel import MINE

TINY = {"train_p": "7", "train_steps": "20", "train_train_fraction": "0.8"}
"""The form as an address: what `QUICK` orders."""


def button(page: AppTest, label: str) -> object:
    (found,) = (one for one in page.button if one.label == label)
    return found


def words(page: AppTest) -> str:
    return " ".join(one.value for one in (*page.markdown, *page.caption)).replace("\\", "")


def as_mine(page: AppTest) -> AppTest:
    page.session_state[TOKEN] = MINE
    return page.run()
