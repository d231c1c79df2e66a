"""What is installed: every package there is, and nothing beside the four."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOUR = ("workbench", "circuits", "probes", "apps")


def test_the_wheel_lists_every_package_and_no_other() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    on_disk = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for top in FOUR
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert set(listed) == on_disk
    assert {name.split(".")[0] for name in listed} == set(FOUR)


def test_nothing_else_lies_at_the_top() -> None:
    allowed = {*FOUR, "tests", "pyproject.toml", "constraints.txt", "README.md"}
    ignored = {"build", "dist", "runs"}
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert {name for name in names if not name.endswith(".egg-info")} - ignored <= allowed


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().split()}
    wanted = (
        PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["test"]
    )
    for requirement in wanted:
        name = requirement.split(">=")[0].strip().lower()
        assert name in pins, requirement


def test_nothing_is_unpickled() -> None:
    banned = ("import pickle", "pickle.load", "import dill", "torch.load(", "allow_pickle=True")
    for top in FOUR:
        for path in (ROOT / top).rglob("*.py"):
            text = path.read_text()
            assert not [word for word in (*banned, "yaml.load(") if word in text], path
