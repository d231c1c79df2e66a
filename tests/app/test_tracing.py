"""`workbench patch` and `workbench circuit`, as a person runs them, on a tiny trained network."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from apps import cli
from apps.tracing import read_circuit
from circuits.graph import Graph
from circuits.tracing import pairs_to_find_and_judge
from workbench.errors import CircuitError, RunError, WorkbenchError
from workbench.records import read_records
from workbench.run import open_run
from workbench.task import make_task

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


def test_columns_are_named_by_the_tokens_of_one_written_pair(folder: Path) -> None:
    written = ("--clean", "3 + 2 =", "--corrupted", "3 + 4 =", "--by", "position")
    said = _run(folder, "patch", name_of(folder), *written, "--json")
    names = json.loads(said.out)["position_names"]
    assert names[:2] == ["3", "2|4"]  # they differ in b alone
    assert "2|4" in _run(folder, "patch", name_of(folder), *written).out


def joined(folder: Path) -> dict[str, dict[str, Any]]:
    """Every finding in the records beside the run, by its id."""
    records = (folder / "runs" / name_of(folder)).glob("records/*.json")
    found = [finding for path in records for finding in json.loads(path.read_text())["findings"]]
    return {finding["id"]: finding for finding in found}


def test_the_strongest_part_joins_the_findings_beside_the_runner_up(folder: Path) -> None:
    sweep = ("patch", name_of(folder), "--site", "resid_pre", "--metric", "log_probability")
    assert _run(folder, *sweep, "--pairs", "7").status == 0
    assert "patch_resid_pre_log_probability" not in joined(folder)  # too few to choose and test
    assert _run(folder, *sweep, "--pairs", "16").status == 0
    found = joined(folder)["patch_resid_pre_log_probability"]
    (control,) = found["controls"]
    assert control["name"].startswith("runner-up, layer 0, position ")
    assert found["n"] == control["n"] == 8
    low = found["details"]["lead from"]
    supported = low > 0 and found["details"]["q"] < 0.05
    assert found["verdict"] == ("supported" if supported else "not supported")
    # Lists of axes are taken either way, each axis once, and the usual split keeps its name.
    assert _run(folder, *sweep, "--pairs", "16", "--by", "position,layer").status == 0
    twice = ("patch", name_of(folder), "--by", "position", "--by", "head,position")
    assert _run(folder, *twice, "--pairs", "8", "--direction", "noise").status == 0
    ids = {name for name in joined(folder) if name.startswith("patch_")}
    assert ids >= {"patch_resid_pre_log_probability", "patch_head_noising_by_position"}
    assert not any(name.startswith("patch_resid_pre_log_probability_by") for name in ids)


ASKED = ("--method", "exact", "--edges", "12", "--pairs", "16")


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    """What `workbench circuit` says of the trained run."""
    said = _run(folder, "circuit", name_of(folder), *ASKED, "--draws", "100", "--json", "--quiet")
    assert said.status == 0, said.err
    found: dict[str, Any] = json.loads(said.out)
    return found


def test_a_circuit_joins_the_findings(folder: Path, document: dict[str, Any]) -> None:
    name = name_of(folder)
    wanted = {"method", "edges", "total_edges", "faithfulness", "completeness"}
    assert {*wanted, "random_percentile", "n", "edge_list"} <= set(document)
    assert document["edges"] == document["edges_asked"] == len(document["edge_list"]) == 12
    assert 0 < document["live_edges"] <= 12
    assert document["total_edges"] == 2 * 6 + 4 + 5
    # A third of the 49 inputs is 16; the other 33 are all that it was not found on.
    assert document["pairs_for_finding"] == 16
    assert document["n"] == 33 and document["exhaustive"]
    run = folder / "runs" / name
    assert (run / "circuit-exact-12_edges.svg").read_bytes().startswith(b"<?xml")
    found = joined(folder)["circuit_exact_12_edges"]
    assert "on every input it was not found on, 33" in found["measure"]
    assert found["claim"].endswith("found by exact on 16 pairs, do the task")
    explained = _run(folder, "explain", name, "--draws", "2", "--quiet", "--json")
    ids = [finding["id"] for finding in json.loads(explained.out)["findings"]]
    assert "circuit_exact_12_edges" in ids and "sufficiency" in ids
    # Found again, it takes its own place, in the findings and in the report.
    again = _run(folder, "circuit", name, *ASKED, "--seed", "1")
    words = " ".join(again.out.split())
    assert "on every input it was not found on, 33" in words and "found on 16 pairs" in words
    page = (run / "report.html").read_text()
    assert "12 of 21 edges" in page
    records = read_records(open_run(run))
    seeds = [
        one.parameters["seed"]
        for one in records
        if "circuit_exact_12_edges" in [finding.id for finding in one.findings]
    ]
    assert seeds == [1]


def test_each_question_has_files_and_findings_of_its_own(
    folder: Path, document: dict[str, Any]
) -> None:
    """Another metric, or another step, leaves the files of the first as they were."""
    run = folder / "runs" / name_of(folder)
    asked = ("circuit", name_of(folder), *ASKED)
    first = [path for path in run.glob("records/circuit-*") if b"exact" in path.read_bytes()]
    kept = {path: path.read_bytes() for path in [*first, run / "circuit-exact-12_edges.svg"]}
    assert len(kept) == 2
    others = ("--metric", "log_probability", "--direction", "denoise", "--selection", "signed")
    assert _run(folder, *asked, *others).status == 0
    early = sorted(int(path.stem.split("-")[-1]) for path in (run / "checkpoints").iterdir())[0]
    assert _run(folder, *asked, "--step", str(early)).status == 0
    assert (run / f"step-{early:06d}" / "circuit-exact-12_edges.svg").is_file()
    assert early in [record.step for record in read_records(open_run(run))]
    assert {path: path.read_bytes() for path in kept} == kept
    assert "circuit_exact_log_probability_denoising_signed_12_edges" in joined(folder)


def test_no_clean_input_is_both_for_finding_and_for_judging() -> None:
    """Every one of 25 inputs is in exactly one of the two; drawn ones never overlap either."""
    small = make_task("modular_addition", {"p": 5})
    finding, judging, every = pairs_to_find_and_judge(small, n_pairs=64)
    rows = [*finding.clean.tolist(), *judging.clean.tolist()]
    assert every and (len(finding), len(judging)) == (8, 17)
    assert sorted(rows) == small.domain().tolist()
    large = make_task(
        "modular_addition", {"p": 71}
    )  # 5041 inputs: of 300 and 600 some are the same
    finding, judging, every = pairs_to_find_and_judge(large, n_pairs=300)
    seen = {tuple(row) for row in finding.clean.tolist()}
    assert not every and len(finding) == 300
    assert not seen & {tuple(row) for row in judging.clean.tolist()}
    assert 500 < len(judging) < 600  # 600 x 300 / 5041 = 36 of them had been seen
    finding, judging, every = pairs_to_find_and_judge(large, n_pairs=300, exhaustive=True)
    assert every and (len(finding), len(judging)) == (300, 4741)


def test_a_failing_command_leaves_the_run_as_it_was(folder: Path) -> None:
    run = folder / "runs" / name_of(folder)
    (folder / "folder.png").mkdir()
    (run / "records").mkdir(exist_ok=True)
    damaged = run / "records" / "patching-0000000000000000.json"

    def state() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}

    before = state()
    for command in (("patch", "--pairs", "16"), ("circuit", "--method", "eap", "--pairs", "16")):
        for out in ("missing/x.png", "folder.png", "x.pdf"):
            said = _run(folder, command[0], run.name, *command[1:], "--out", out)
            assert said.status == 2 and out in said.err and len(said.err.splitlines()) == 1
        assert state() == before
        damaged.write_text('{"id": "patching-0000000000000000"}')
        mixed = state()
        said = _run(folder, command[0], run.name, *command[1:], "--out", "x.png")
        assert said.status == 2 and damaged.name in said.err and len(said.err.splitlines()) == 1
        assert not (folder / "x.png").exists() and state() == mixed
        damaged.unlink()


# ---------------------------------------------------------------------- circuits that are given


def given(folder: Path, content: str, *options: str) -> Said:
    (folder / "given.json").write_text(content)
    return _run(
        folder, "circuit", name_of(folder), "--given", "given.json", "--pairs", "16", *options
    )


def test_a_given_circuit_is_judged_on_every_input(folder: Path, document: dict[str, Any]) -> None:
    """However the file says it, it is the same circuit with the same finding, drawn the same."""
    edges = [row["edge"] for row in document["edge_list"]]
    run = folder / "runs" / name_of(folder)
    first = given(folder, json.dumps(edges), "--json")
    assert first.status == 0, first.err
    told = json.loads(first.out)
    assert told["edges"] == 12 and told["n"] == 49 and told["exhaustive"]
    (name,) = (name for name in joined(folder) if name.startswith("evaluation_"))
    finding = joined(folder)[name]
    assert finding["claim"].endswith("as given, do the task") and len(finding["controls"]) == 2
    assert "on every input, 49" in finding["measure"]
    assert (run / f"{name.replace('_', '-')}.svg").read_bytes().startswith(b"<?xml")
    ways: list[Any] = [edges[::-1], {"model": {}, "n_pos": None, "edges": edges}, document, told]
    ways += [json.loads(path.read_text()) for path in run.glob("records/evaluation-*.json")]
    assert len(ways) == 5
    graph, file = Graph(open_run(run).config.model), folder / "way.json"
    for way in ways:
        file.write_text(json.dumps(way))
        assert read_circuit(file, graph).edges == tuple(edges)
    shown = " ".join(given(folder, json.dumps(edges)).out.split())
    assert "of 21 edges" in shown and "on every input, 49" in shown and "drawing: " in shown
    assert [name for name in joined(folder) if name.startswith("evaluation_")] == [name]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "holds no circuit"),
        ("{}", "holds no circuit"),
        ('["m0->logits", 1]', "holds no circuit"),
        ('{"edge_list": [{"score": 1}]}', "holds no circuit"),
        ('["m0->logit"]', "no edge 'm0->logit'; did you mean 'm0->logits'"),
        ('["m0->logits@1"]', "add --per-position"),
        ('["m0->logits"], "edges": []', "not valid JSON"),
        ('["m0->logits"', "not valid JSON"),
        ('{"kind": "circuit"}', "Field required"),
        ("\x00", "not valid JSON"),
    ],
)
def test_what_is_no_circuit_is_told_in_one_line(folder: Path, content: str, said: str) -> None:
    answer = given(folder, content)
    assert answer.status == 2 and not answer.out
    assert said in answer.err and len(answer.err.strip().splitlines()) == 1


def test_a_file_with_a_circuit_must_fit_the_question(folder: Path, tmp_path: Path) -> None:
    run = open_run(folder / "runs" / name_of(folder))
    by_position, file = Graph(run.config.model, run.task.n_ctx), tmp_path / "edges.json"
    file.write_text('["m0->logits@2", "embed->m0@2"]')
    assert read_circuit(file, by_position).edges == ("embed->m0@2", "m0->logits@2")
    file.write_text('["m0->logits"]')
    with pytest.raises(CircuitError, match="leave --per-position out"):
        read_circuit(file, by_position)
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(CircuitError, match="is no file"):
            read_circuit(path, by_position)
    file.write_text('{"edges": ["m0->logits"], "edges": []}')
    with pytest.raises(RunError, match="twice"):
        read_circuit(file, by_position)
    file.write_text("[" * 100_000)
    with pytest.raises(WorkbenchError, match="not valid JSON"):
        read_circuit(file, by_position)
    answer = given(folder, '["m0->logits"]', "--edges", "3")
    assert answer.status == 2 and "--edges says how to search" in answer.err


# ---------------------------------------------------------------------- mistakes


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
        (("circuit", "RUN", "--metric", "acuracy"), "no metric 'acuracy'; did you mean 'accuracy'"),
        (("circuit", "RUN", "--ablation", "means"), "did you mean 'mean'"),
        (("patch", "RUN", "--direction", "noising"), "did you mean 'noise'"),
        (("circuit", "RUN", "--selection", "sign"), "did you mean 'signed'"),
        (("circuit", "RUN", "--draws", "99"), "greater than or equal to 100"),
        (("patch", "RUN", "--pairs", "1000001"), "less than or equal to 1000000"),
        (("patch", "RUN", "--clean", "1 + 2 =", "--pairs", "9"), "--pairs says how to draw"),
        (("patch", "RUN", "--clean", "1 + 2 =", "--corrupt", "change_a"), "--corrupt says how"),
        (("circuit", "RUN", "--out", "edges.csv"), "end its name in .png, .svg or .json"),
    ],
)
def test_mistakes_are_one_line(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    given = [name_of(folder) if part == "RUN" else part for part in arguments]
    answer = _run(folder, *given)
    assert answer.status == 2 and not answer.out
    assert said in answer.err and len(answer.err.strip().splitlines()) == 1
