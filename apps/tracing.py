"""What `workbench patch` and `workbench circuit` read and write, besides the records themselves."""

from pathlib import Path
from typing import Any

from apps.circuit_drawing import draw_circuit
from apps.drawing import draw_sweep
from apps.neuronpedia_files import graph_bytes
from apps.recording import folder_of, keep
from circuits.analyses.circuit import CircuitAnalysis, circuit_of, edges_in, names_in
from circuits.analyses.evaluation import EvaluationAnalysis
from circuits.analyses.patching import columns_of, sweep_of
from circuits.circuit import Circuit
from circuits.circuit import circuit_of as circuit_of_edges
from circuits.graph import Graph
from circuits.neuronpedia import from_neuronpedia
from workbench import config
from workbench.analysis import Recorded
from workbench.errors import CircuitError
from workbench.record import Record
from workbench.records import read_notebook
from workbench.run import Run
from workbench.storage import atomic_write, explained, from_json
from workbench.strict import validated

LARGEST_FILE = 64 * 2**20
"""Bytes of a file that a circuit is read from."""


def keep_patching(run: Run, recorded: Recorded, out: Path | None, kind: str | None) -> None:
    """Write the picture or the table, then keep the record."""
    if out is not None and kind is not None:
        found = sweep_of(*recorded)
        if kind == "csv":
            seed = recorded.record.parameters["seed"]
            assert isinstance(seed, int)
            data = found.to_csv(seed=seed).encode()
        else:
            data = draw_sweep(found, kind, columns=columns_of(recorded.record))
        atomic_write(out, data)
    keep(run, recorded)


def keep_circuit(
    run: Run,
    analysis: CircuitAnalysis | EvaluationAnalysis,
    recorded: Recorded,
    out: Path | None,
    kind: str,
) -> Path:
    """Draw the circuit, into the folder of its step if nowhere else, then keep the record.

    As .json it is a Neuronpedia graph. Returns where the drawing is.
    """
    if kind == "json":
        marks = read_notebook(run).marks
        drawing = graph_bytes(*recorded, run.config.model, run.task, marks)
    else:
        drawing = draw_circuit(*circuit_of(*recorded, run.config.model), kind)
    if out is None:
        folder = folder_of(run, recorded.record.step)
        with explained("create", folder):
            folder.mkdir(exist_ok=True)
        out = folder / f"{'-'.join(analysis.words())}.svg"
    atomic_write(out, drawing)
    keep(run, recorded)
    return out


def circuit_analysis(
    run: Run, asked: dict[str, Any], given: Path | None
) -> CircuitAnalysis | EvaluationAnalysis:
    """What is asked of a run: to search a circuit, or to judge the one in the file `given`.

    Raises `ConfigError` for a parameter out of range, and what `read_circuit` raises.
    """
    if given is None:
        return config.from_dict(CircuitAnalysis, asked, where="circuit")
    n_pos = run.task.n_ctx if asked["per_position"] else None
    circuit = read_circuit(given, Graph(run.config.model, n_pos))
    return config.from_dict(
        EvaluationAnalysis, {**asked, "edges": circuit.edges}, where="circuit --given"
    )


def read_circuit(path: Path, graph: Graph) -> Circuit:
    """A circuit of this graph from a JSON file.

    The file holds a list of names of edges; a record of a circuit or an evaluation; what
    `workbench circuit --json` prints; `Circuit.to_dict`; or a Neuronpedia graph. Raises `RunError`
    for a file that cannot be read or is no JSON, `CircuitError` for one without a circuit, or with
    edges that the graph does not have.
    """
    if not path.is_file() or path.stat().st_size > LARGEST_FILE:
        raise CircuitError(f"{path} is no file of at most {LARGEST_FILE:,} bytes; name one")
    with explained("read", path):
        data = path.read_bytes()
    if data.lstrip().startswith(b"["):  # only objects are read; a list is made the value of one
        data = b'{"edges": ' + data + b"}"
    if b'"qParams"' in data and b'"links"' in data:
        return from_neuronpedia(from_json(data, where=str(path)), graph)[0]
    names = _names(data, where=str(path))
    if not names:
        raise CircuitError(
            f"{path} holds no circuit: write a JSON list of edges such as "
            '["embed->m0", "m0->logits"], or give the record of a circuit'
        )
    if graph.n_pos is None and any("@" in name for name in names):
        raise CircuitError(f"{path}: its edges name positions; add --per-position")
    if graph.n_pos is not None and not any("@" in name for name in names):
        raise CircuitError(f"{path}: its edges name no positions; leave --per-position out")
    return circuit_of_edges(graph, names)


def _names(data: bytes, *, where: str) -> list[str] | None:
    """The names of edges in what a file holds; None where it holds none."""
    content = from_json(data, where=where)
    if "kind" in content:
        return edges_in(validated(Record, data, where=where, error=CircuitError))
    names = content.get("edges")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    return names_in(content.get("edge_list"))
