"""Neuronpedia's graph files of records: `circuit --out x.json`, `session export -o x.json`."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from circuits.analyses.circuit import VALUES, circuit_of
from circuits.neuronpedia import to_neuronpedia
from workbench.errors import SessionError
from workbench.model_config import ModelConfig
from workbench.record import Record, named
from workbench.session import Session
from workbench.session.schema import Marks
from workbench.storage import to_json
from workbench.task import Task, task_from_dict


def graph_bytes(
    record: Record, arrays: Mapping[str, Tensor], config: ModelConfig, task: Task, marks: Marks
) -> bytes:
    """A record's circuit as a graph file, beside the first input that its seed draws.

    Raises `CircuitError` where the record holds no circuit.
    """
    circuit, values = circuit_of(record, arrays, config)
    seed = record.parameters.get("seed")
    generator = torch.Generator().manual_seed(seed if isinstance(seed, int) else 0)
    name = record.findings[0].id if record.findings else record.id
    content = to_neuronpedia(
        circuit,
        values,
        task=task,
        example=task.sample(1, generator),
        slug=re.sub(r"[^A-Za-z0-9_-]", "-", name),
        description=" ".join(finding.claim for finding in record.findings),
        marks=marks,
    )
    return to_json(content, where=record.id, indent=1)


def session_graph(session: Session, only: list[str] | None) -> bytes:
    """The graph file of a session's circuit. Raises `SessionError` unless there is just one."""
    circuits = [one for one in named(session.records, only) if one.kind in VALUES]
    if len(circuits) != 1:
        there = ", ".join(finding.id for one in circuits for finding in one.findings) or "none"
        raise SessionError(
            f"a graph file holds one circuit, and {len(circuits)} are meant ({there}); name one "
            "with --only"
        )
    return graph_bytes(
        circuits[0],
        session.arrays(circuits[0]),
        session.network.shape,
        task_from_dict(session.network.task),
        session.notebook.marks,
    )
