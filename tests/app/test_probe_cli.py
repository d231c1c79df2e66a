"""`workbench probe RUN` as a person runs it, on a network of which it is known what is where."""

import csv
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from probes.splits import grouped_splits, groups_of
from tests.app.probing_folder import POST, make_folder, state, workbench
from tests.known_adder import LAST, adder_task
from workbench.analysis import analysis_from
from workbench.finding import Finding
from workbench.record import Record
from workbench.records import read_arrays, read_records
from workbench.run import open_run
from workbench.tasks.modular_addition import ModularAddition


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("probing"))


def ask(folder: Path, *arguments: str, run: str = "known", variable: str = "answer") -> Any:
    """The document of `workbench probe RUN --variable ... --json`."""
    said = workbench(folder, "probe", run, "--variable", variable, *arguments, "--json", "--quiet")
    assert said.status == 0, said.err
    assert said.out.count("\n") == 1 and not said.err
    return json.loads(said.out)


# ---------------------------------------------------------------------- one network


@pytest.fixture(scope="module")
def document(folder: Path) -> Any:
    return ask(folder)


def test_json_has_what_a_program_reads(document: Any) -> None:
    assert {"variable", "n", "rows"} <= set(document)
    assert document["variable"] == "answer" and len(document["rows"]) == 3 * 3
    for row in document["rows"]:
        assert {
            *("site", "position", "probe", "accuracy", "interval", "control_accuracy"),
            *("selectivity", "p", "q", "erased_accuracy", "random_erased_accuracy"),
        } <= set(row)
        low, high = row["interval"]
        assert 0 <= low <= row["accuracy"] <= high <= 1
        assert row["selectivity"] == row["accuracy"] - row["control_accuracy"]
        assert row["n"] == document["n"]
        assert 0 < row["p"] <= row["q"] <= 1


def test_n_is_how_many_inputs_any_seed_held_out(document: Any) -> None:
    groups = groups_of(adder_task(), adder_task().domain())
    held_out = grouped_splits(groups, seeds=[0, 1, 2]).held_out.any(0)
    assert document["n"] == int(held_out.sum())


def test_it_says_what_is_known_of_the_network(document: Any) -> None:
    found = {(row["site"], row["position"]): row for row in document["rows"]}
    says = {at: (row["selective"], row["used"]) for at, row in found.items()}
    assert says.pop((POST, 2)) == (True, True)
    assert says.pop((POST, 1)) == (True, False)  # both operands were seen, but nothing reads it
    assert set(says.values()) == {(False, False)}
    assert found[POST, 1]["accuracy"] == found[POST, 2]["accuracy"] == 1.0
    assert document["answer_accuracy"] == 1.0
    # Thirteen classes have means that span twelve directions.
    assert found[POST, 2]["rank"] == 22
    assert found[POST, 2]["erased_accuracy"] < found[POST, 2]["random_erased_lowest"]
    # After the only attention layer nothing at position 1 reaches the answer, whatever is erased.
    assert found[POST, 1]["erased_accuracy"] == found[POST, 1]["random_erased_accuracy"] == 1.0


def test_the_table_shows_accuracy_by_site_and_position(folder: Path) -> None:
    said = workbench(folder, "probe", "known", "--variable", "answer")
    assert said.status == 0 and not said.err
    lines = said.out.splitlines()
    (row,) = (line for line in lines if line.startswith(POST))
    assert row.split() == [POST, "0.00", "1.00dS", "1.00SU"]
    (best,) = (line for line in lines if line.strip().startswith(f"{POST} ") and " 2 " in line)
    assert best.rstrip().endswith("decodable, selective, used")
    assert "control" in said.out and "95 % interval" in said.out and "random" in said.out


def test_it_must_be_able_to_say_no(folder: Path) -> None:
    random = ask(folder, "--step", "0")
    assert random["step"] == 0
    assert {(row["selective"], row["used"]) for row in random["rows"]} == {(False, False)}
    (record,) = records(folder, 0)
    assert record.weights_sha256 == random["weights_sha256"]
    assert [finding.id for finding in record.findings] == ["probe_answer", "erase_answer"]
    assert {finding.verdict for finding in record.findings} == {"not supported"}


def records(folder: Path, step: int) -> list[Record]:
    return [
        one for one in read_records(open_run(folder / "runs/known"), step) if one.kind == "probe"
    ]


def findings(folder: Path) -> list[Finding]:
    return [finding for record in records(folder, LAST) for finding in record.findings]


def test_what_is_printed_is_the_record_and_where_it_was_found(folder: Path) -> None:
    told = ask(folder, "--site", POST, "--position", "2", "--no-erase", variable="a")
    (record,) = (one for one in records(folder, LAST) if one.parameters["variables"] == ["a"])
    about = {"workbench", "task", "run", "weights_sha256", "step"}
    assert {key: told[key] for key in told.keys() - about} == record.result
    assert told.keys() - record.result.keys() == about
    asked = analysis_from(record.kind, record.parameters)
    assert (asked.hooks, asked.positions, asked.erase) == ((POST,), (2,), False)  # type: ignore[attr-defined]
    arrays = read_arrays(open_run(folder / "runs/known"), record)
    assert set(arrays) == {f"ridge.a.{POST}@2.{name}" for name in ("coef", "intercept")}
    # A seed each; 23 values of a, and as many dimensions as the residual stream has.
    assert arrays[f"ridge.a.{POST}@2.coef"].shape == (3, 23, 70)


def test_findings_stand_beside_controls_and_join_the_report(
    folder: Path, document: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("circuits.analyses.mechanism.mechanism_for", lambda task: None)
    said = workbench(folder, "explain", "known", "--draws", "2", "--quiet", "--json")
    assert said.status == 0, said.err
    ids = ("probe_answer", "erase_answer")
    assert set(ids) <= {finding["id"] for finding in json.loads(said.out)["findings"]}
    best_site = ("--site", POST, "--position", "2")
    ask(folder, *best_site, variable="wraps")  # explained already: these join what is there
    ask(folder, *best_site)  # in place of what was asked of all sites
    named = [finding.id for finding in findings(folder)]
    assert all(named.count(name) == 1 for name in (*ids, "probe_wraps", "erase_wraps"))
    page = (folder / "runs/known/report.html").read_text()
    read, used = (next(one for one in findings(folder) if one.id == name) for name in ids)
    assert read.claim in page and used.claim in page
    assert read.verdict == used.verdict == "supported"
    assert f"at {POST}, position 2" in used.claim
    best = max(document["rows"], key=lambda row: (row["used"], row["accuracy"]))
    assert read.value == 1.0 and read.n == document["n"]
    assert used.value == best["erased_accuracy"]
    told = {control.name: control.value for control in read.controls}
    assert read.interval is not None
    assert len(told) == 7 and max(told.values()) < read.interval[0]
    assert {control.n for control in used.controls} == {19, 1, used.n}
    assert sum("same tokens" in control.name for control in used.controls) == 2


def test_out_writes_files_that_open(folder: Path, document: Any) -> None:
    names = ("picture.png", "picture.svg", "numbers.csv")
    outs = [word for name in names for word in ("--out", name)]
    assert ask(folder, *outs) == document  # the same question, the same answer
    with Image.open(folder / "picture.png") as picture:
        picture.load()
        assert min(picture.size) > 300
    text = (folder / "picture.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    for words in (POST, "answer: ridge probes", f"n = {document['n']}", "selectivity", "used"):
        assert words in text
    with (folder / "numbers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(document["rows"])
    for row, told in zip(rows, document["rows"], strict=True):
        assert [float(row["low"]), float(row["high"])] == told["interval"]
        for key in told.keys() - {"interval"}:
            assert row[key] == ("" if told[key] is None else str(told[key]))


def test_a_part_of_the_sites_by_another_probe(folder: Path) -> None:
    asked = ("--site", POST, "--site", "blocks.0.attn.hook_z", "--position", "-1", "--no-erase")
    found = ask(folder, *asked, "--out", "b.SVG", "--probe", "mass_mean")
    places = [(row["site"], row["position"]) for row in found["rows"]]
    assert places == [(POST, 2), ("blocks.0.attn.hook_z[0]", 2)]
    assert {row["probe"] for row in found["rows"]} == {"mass_mean"}
    assert {row["erased_accuracy"] for row in found["rows"]} == {None}
    assert (folder / "b.SVG").read_text().startswith("<?xml")


def test_position_0_is_a_position(folder: Path) -> None:
    assert [row["position"] for row in ask(folder, "--site", POST, "--position", "0")["rows"]] == [
        0
    ]


def test_an_imported_network_is_probed_by_its_folder(folder: Path) -> None:
    found = ask(folder, "--site", POST, "--position", "2", run="network")
    assert found["rows"][0]["used"] is True and found["run"].startswith("runs/")


def test_a_network_split_holds_out_what_the_network_never_saw(folder: Path) -> None:
    found = ask(folder, "--split", "network", "--site", POST)
    split = adder_task().split(0, 0.8)
    seen = {tuple(sorted(pair)) for pair in split.train.tolist()}
    unseen = [pair for pair in split.held_out.tolist() if tuple(sorted(pair)) not in seen]
    assert found["n"] == len(unseen)
    assert {row["split"] for row in found["rows"]} == {"network"}


# ---------------------------------------------------------------------- mistakes


ONE = ("probe", "known", "--variable", "answer")
UNSEEN = ("--split", "out_of_distribution", "--held-out-by")
MISTAKES: dict[str, tuple[tuple[str, ...], str]] = {
    "no variable named": (("probe", "known"), "Missing option '--variable'"),
    "variable": (("probe", "known", "--variable", "anser"), "did you mean 'answer'? known: a,"),
    "probe": ((*ONE, "--probe", "rigde"), "did you mean 'ridge'"),
    "hook": ((*ONE, "--site", "blocks.0.hook_resid_psot"), "did you mean 'blocks.0.hook_resid_pos"),
    "pattern": ((*ONE, "--site", "blocks.0.attn.hook_pattern"), "hold keys, not features"),
    "position": ((*ONE, "--position", "3"), "position 3 at blocks.0.hook_resid_pre"),
    "negative position": ((*ONE, "--position", "-4"), "inputs have positions 0 to 2"),
    "seeds": ((*ONE, "--seeds", "gibberish"), "--seeds 'gibberish': write 3, 0,4,7 or 0:16"),
    "few inputs": ((*ONE, "--inputs", "3"), "n_inputs = 3"),
    "classes": ((*ONE, "--inputs", "16"), "classes on 16 inputs; take at least two inputs a class"),
    "split": ((*ONE, "--split", "nework"), "'nework'"),
    "held out by": ((*ONE, "--split", "out_of_distribution"), "held_out_by"),
    "held out by what": ((*ONE, "--held-out-by", "a"), "out_of_distribution and held_out_by"),
    "constant on the split": (
        ("probe", "known", "--variable", "wraps", *UNSEEN, "wraps"),
        "inputs that train in split out_of_distribution/0; there is nothing to tell apart",
    ),
    "step": ((*ONE, "--step", "7"), "no checkpoint at step 7; there are: 0, 20"),
    "out": ((*ONE, "--out", "x.pdf"), "--out x.pdf: end its name in .png, .svg or .csv"),
    "out nowhere": ((*ONE, "--out", "no/x.png"), "there is no folder no; make it first"),
    "one out of two": ((*ONE, "--out", "x.png", "--out", "x"), "--out x: end its name in"),
    "run": (("probe", "nothing", "--variable", "a"), "no run 'nothing', here or in runs/"),
    "no run": (("probe", "other", "--variable", "a"), "other is not a run"),
    "incomplete": (("probe", "half", "--variable", "a"), "runs/half is incomplete; run the same"),
    "imported": (
        ("probe", "network", "--variable", "answer", "--split", "network"),
        "came without them; use the split 'grouped'",
    ),
    "NaN weights": (("probe", "nan", "--variable", "answer"), "NaN"),
    "overflow": (("probe", "huge", "--variable", "answer", "--site", POST), "NaN or infinit"),
    "command": (("probe", "plam", "sweep.yaml"), "did you mean 'plan'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_clear_line_and_writes_nothing(folder: Path, case: str) -> None:
    arguments, expected = MISTAKES[case]
    before = state(folder)
    said = workbench(folder, *arguments)
    assert said.status == 2, said.err
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert expected in said.err
    made = {path for path in state(folder) if path not in before}
    if case not in ("imported", "overflow"):  # imported first: that is no mistake
        assert not made and state(folder) == before
    assert not (folder / "new").exists() and not (folder / "x.csv").exists()


def test_a_constant_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ModularAddition.variables

    def with_one_more(self: Any, inputs: Any) -> Any:
        return {**real(self, inputs), "always": torch.full_like(inputs[:, 0], 7)}

    monkeypatch.setattr(ModularAddition, "variables", with_one_more)
    said = workbench(folder, "probe", "known", "--variable", "always")
    assert said.status == 2 and said.err.count("\n") == 1
    assert "variable 'always' is 7 on all 529 inputs; there is nothing to tell apart" in said.err
    said = workbench(folder, "probe", "run", "sweep.yaml", "-o", "new", "variables=always")
    assert said.status == 2 and "'always' is 7 on all 529" in said.err
    assert not (folder / "new").exists()  # told before a plan is frozen


def test_a_damaged_record_is_told_before_the_work(folder: Path) -> None:
    path = folder / f"runs/known/records/probe-{'0' * 16}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"id": "probe"}')
    damaged = state(folder)
    said = workbench(folder, *ONE, "--out", "x.png")
    assert said.status == 2 and said.err.count("\n") == 1
    assert path.name in said.err and "id: " in said.err
    assert state(folder) == damaged
    path.unlink()


def test_help_names_every_command_and_the_short_way(folder: Path) -> None:
    said = workbench(folder, "probe", "--help")
    assert said.status == 0
    for word in ("plan", "run", "status", "query", "summary", "--variable"):
        assert word in said.out
