"""`workbench patch` and `workbench circuit`, as a person runs them, on a tiny trained network."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from apps import cli

SMALL = [
    *("--set", "p=7", "--set", "d_model=16", "--set", "d_head=8", "--set", "n_heads=2"),
    *("--set", "d_mlp=32", "--set", "steps=150", "--set", "train_fraction=0.8"),
    *("--set", "weight_decay=1", "--set", "label_smoothing=0", "--set", "neuron_dropout=0"),
]


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one trained run."""
    folder = tmp_path_factory.mktemp("tracing")
    said = _run(folder, "train", "modular_addition", *SMALL, "--quiet", "--json")
    assert said.status == 0, said.err
    return folder


def _run(folder: Path, *arguments: str) -> Said:
    """`workbench ARGUMENTS` in a folder, in this process, with what it printed."""
    patch = pytest.MonkeyPatch()
    out, err = folder / "out.txt", folder / "err.txt"
    with patch.context() as changed, out.open("w") as stdout, err.open("w") as stderr:
        changed.chdir(folder)
        changed.setattr(sys, "argv", ["workbench", *arguments])
        changed.setattr(sys, "stdout", stdout)
        changed.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit) as end:
            cli.main()
    status = end.value.code
    return Said(int(status or 0), out.read_text(), err.read_text())


def name_of(folder: Path) -> str:
    (found,) = (path.name for path in (folder / "runs").iterdir() if path.is_dir())
    return found


def test_patching_one_written_pair(folder: Path) -> None:
    said = _run(
        *(folder, "patch", name_of(folder), "--site", "resid_pre"),
        *("--clean", "3 + 2 =", "--corrupted", "3 + 4 =", "--json"),
    )
    assert said.status == 0, said.err
    document = json.loads(said.out)
    assert document["direction"] == "denoising" and document["n"] == 1
    assert [row["position"] for row in document["rows"]] == [0, 1, 2, 3][: len(document["rows"])]
    gap = document["other_metric"] - document["base_metric"]
    effects = {row["position"]: row["effect"] for row in document["rows"]}
    # Only b differs: its embedding, put back, restores everything, and nothing else does a thing.
    assert effects[1] == pytest.approx(gap, abs=1e-4)
    assert effects[0] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("kind", ["csv", "png", "svg"])
def test_a_sweep_is_written_where_asked(folder: Path, kind: str) -> None:
    said = _run(
        *(folder, "patch", name_of(folder), "--by", "position", "--pairs", "8"),
        *("--out", f"heads.{kind}"),
    )
    assert said.status == 0, said.err
    data = (folder / f"heads.{kind}").read_bytes()
    starts = {"csv": b"layer,head,position,effect", "png": b"\x89PNG", "svg": b"<?xml"}
    assert data.startswith(starts[kind])
    assert "L0H1" in said.out


def test_a_circuit_joins_the_findings(folder: Path) -> None:
    name = name_of(folder)
    arguments = ("circuit", name, "--method", "exact", "--edges", "12", "--pairs", "16")
    said = _run(folder, *arguments, "--draws", "20", "--json", "--quiet")
    assert said.status == 0, said.err
    document = json.loads(said.out)
    wanted = {"method", "edges", "total_edges", "faithfulness", "completeness"}
    assert {*wanted, "random_percentile", "n", "edge_list"} <= set(document)
    assert document["edges"] == len(document["edge_list"]) == 12
    assert document["total_edges"] == 2 * 6 + 4 + 5
    assert document["n"] == 49 and document["exhaustive"]  # every input
    assert (folder / "runs" / name / "circuit-exact.svg").read_bytes().startswith(b"<?xml")
    joined = json.loads((folder / "runs" / name / "findings.json").read_text())
    (findings,) = joined.values()
    assert "circuit_exact" in [finding["id"] for finding in findings]
    explained = _run(folder, "explain", name, "--draws", "2", "--quiet", "--json")
    ids = [finding["id"] for finding in json.loads(explained.out)["findings"]]
    assert "circuit_exact" in ids and "sufficiency" in ids
    # Found again, it takes its own place, in the findings and in the report.
    assert _run(folder, *arguments, "--draws", "20", "--seed", "1", "--json").status == 0
    page = (folder / "runs" / name / "report.html").read_text()
    saved = json.loads((folder / "runs" / name / "explanation.json").read_text())
    assert [finding["id"] for finding in saved["findings"]].count("circuit_exact") == 1
    assert "12 of 21 edges" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("patch", "RUN", "--site", "heads"), "did you mean 'head'"),
        (("patch", "RUN", "--by", "token"), "no axis of site head 'token'"),
        (("patch", "RUN", "--clean", "1 + 2 =", "--corrupted", "2 + 1 ="), "the same answer"),
        (("patch", "RUN", "--clean", "1 + 2 ="), "1 clean and 0 corrupted"),
        (("patch", "RUN", "--clean", "1 + 9 =", "--corrupted", "1 + 2 ="), "0 ... 6"),
        (("patch", "RUN", "--corrupt", "change"), "did you mean"),
        (("patch", "RUN", "--out", "map.pdf"), "end its name in .png, .svg or .csv"),
        (("patch", "RUN", "--step", "149"), "no checkpoint at step 149"),
        (("patch", "nothing"), "no run 'nothing'"),
        (("circuit", "RUN", "--method", "eapig"), "no method 'eapig'"),
        (("circuit", "RUN", "--edges", "22", "--method", "exact"), "the graph has 21 edges"),
        (("circuit", "RUN", "--edges", "0", "--method", "exact"), "the graph has 21"),
        (("circuit", "RUN", "--metric", "loss"), "loss"),
        (("circuit", "RUN", "--out", "edges.csv"), "drawn as .svg or .png"),
    ],
)
def test_mistakes_are_one_line(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    given = [name_of(folder) if part == "RUN" else part for part in arguments]
    answer = _run(folder, *given)
    assert answer.status == 2 and not answer.out
    assert said in answer.err and len(answer.err.strip().splitlines()) == 1
