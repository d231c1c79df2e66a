"""The README's example runs as it stands, and its commands are the ones that are tested."""

import re
from pathlib import Path

import pytest

from probes.sweep import Sweep

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_example_runs_and_identifies_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example, circuits, probes, sessions = blocks("python")
    assert len(example.strip().splitlines()) <= 18
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("identified (")
    assert printed[-1] == "['19']"  # 37 + 41 = 78 = 59 + 19
    exec(compile(circuits, "README.md", "exec"), names)
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("supported (") and "m0->logits" in said
    exec(compile(probes, "README.md", "exec"), names)
    *_, last = capsys.readouterr().out.splitlines()
    # The answer is there at the end, and no such function of the tokens in general.
    place, accuracy, control, selective = last.split()
    assert place == "blocks.0.hook_resid_post" and selective == "True"
    assert float(accuracy) > 0.8 and float(control) < 0.1
    exec(compile(sessions, "README.md", "exec"), names)
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith("patching holds ") and said.endswith(" numbers compared")


def test_the_sweep_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "sweep.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    spec = Sweep.from_yaml("sweep.yaml").spec
    assert spec.variables == ("carry_1", "carry_2") and spec.strengths == {"ridge": (0.01, 1, 100)}


def test_there_are_two_commands_and_the_second_runs_the_tests() -> None:
    commands = blocks("sh")
    assert len(commands) == 2
    for command in commands:
        assert command.startswith("python3 -m venv .venv && ")
        assert "pip install -c constraints.txt" in command
        assert command.count("\n") == 1
    assert "workbench explain modular_addition" in commands[0]
    assert "python -m pytest" in commands[1]


def test_every_path_it_names_exists() -> None:
    for path in re.findall(r"`((?:workbench|circuits|probes|apps|tests)/[\w./]*)`", README):
        assert (ROOT / path).exists(), path
