"""What the tests of the Findings page share: reading a page, and its runs."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

from tests.app.app_folder import FULL
from workbench.run import Run, open_run


def the_run(folder: Path, name: str = FULL) -> Run:
    return open_run(folder / "runs" / name)


def words(page: AppTest) -> str:
    """Everything that stands on the page."""
    kinds = (page.markdown, page.text, page.caption, page.info, page.success, page.warning)
    return "\n".join(one.value for kind in kinds for one in kind).replace("\\", "")


def in_address(page: AppTest, name: str) -> list[str]:
    """What stands in the address under a name, in one form: Streamlit's test has two."""
    value = page.query_params[name] if name in page.query_params else []
    return [value] if isinstance(value, str) else list(value)


def click(page: AppTest, key: str) -> AppTest:
    done = page.button(key=key).click().run()
    assert not done.exception
    return done
