"""Circuits as attribution-graph JSON, the files that Neuronpedia's graph viewer shows.

`to_neuronpedia` writes one, `from_neuronpedia` reads it back exactly: edges, scores and marks. The
format is Neuronpedia's `graph-schema.json` (JSON Schema draft-07, version 1.0.0). It requires

    metadata    slug, scan, prompt (text), prompt_tokens (list of text)
    qParams     no key; pinnedIds (list of text), supernodes (list), linkType, clickedId and sg_pos
                (text) where there are any
    nodes       node_id, feature_type, jsNodeId, clerp (text), feature (whole number or null),
                layer (text or whole number), ctx_idx (whole number)
    links       source, target (text), weight (number)

and allows any further key; `feature_type` is any text. The viewer asks for more: no two nodes agree
in (layer, feature, ctx_idx), some node besides the logits is in a layer of at least 1, a logit's
`clerp` is empty or contains "(p=", and there is one link between two nodes.

A node is a head, an MLP, an embedding or the logits; in a graph per position it stands at its
position, otherwise at that of the last answer. Heads of layer l are in row 2l + 1, its MLP in row
2l + 2 (heads in l + 1 where there are no MLPs). What a head reads of one writer as queries, keys
and values is one link: `weight` is the sum, `reads` holds each. A link stays at its position, as
edges do: that attention leads from one to another is not drawn.

Marks are shown as the viewer can: labels in `clerp`, groups in `supernodes`, pinned ones in
`pinnedIds`. They are also kept as they are (`qParams.workbench`), and read from there unless the
viewer's fields were changed since. Where nodes stand is only kept there: `sg_pos` is a row of
numbers in the viewer's own order, without names.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import pydantic
import torch
from jaxtyping import Float, Int
from pydantic import ConfigDict, Field
from torch import Tensor

from circuits.circuit import Circuit
from circuits.graph import LOGITS, Graph, component
from circuits.method import Scores
from circuits.neuronpedia_marks import label_in, shown, without_position
from workbench.errors import CircuitError
from workbench.session.schema import Marks
from workbench.storage import explained, from_json
from workbench.task import Task
from workbench.version import __version__

MOST_BYTES = 100 * 2**20
"""Larger files Neuronpedia does not take, and neither does `read_neuronpedia`."""
SLUG = r"[A-Za-z0-9_.-]{1,200}"
"""Names of graphs and networks that Neuronpedia takes."""
FEATURES = ("cross layer transcoder", "mlp reconstruction error", "lorsa", "lorsa error")
"""Types of nodes of a network that replaces the MLPs or heads of another."""
M = TypeVar("M", bound=pydantic.BaseModel)


def to_neuronpedia(
    circuit: Circuit,
    scores: Scores | Float[Tensor, "*pos writer reader"] | Mapping[str, float] | None,
    *,
    task: Task,
    example: Int[Tensor, "1 operand"],
    slug: str,
    scan: str | None = None,
    description: str = "",
    marks: Marks | None = None,
) -> dict[str, Any]:
    """A circuit as attribution-graph JSON, beside one input of its task.

    Scores are of the whole graph, or by name of at least the circuit's edges; 1.0 each where None.
    `scan` is the network's name on Neuronpedia. Raises `CircuitError` for a slug or scan that
    Neuronpedia does not take, for scores that do not fit or are not finite, and where the input has
    not as many positions as the graph.
    """
    names = {"slug": slug, "scan": f"workbench-{task.name}" if scan is None else scan}
    for what, name in names.items():
        if not re.fullmatch(SLUG, name):
            raise CircuitError(f"{what} {_quoted(name)}: use 1 to 200 of letters, digits and _.-")
    graph = circuit.graph
    nodes = _nodes(circuit, task.answer_positions[-1])
    ids = {name: node["node_id"] for name, node in nodes.items()}
    clerps, parameters = shown(marks or Marks(), ids)
    info = {"generator": {"name": "workbench", "version": __version__}}
    return {
        "metadata": {
            **names,
            **_prompt(task, example, graph),
            "info": info | ({"description": description} if description else {}),
            "generation_settings": scores.to_dict() if isinstance(scores, Scores) else {},
            "pruning_settings": {"n_edges": circuit.n_edges, "of_edges": graph.n_edges},
            "workbench": _shape(graph),
        },
        "qParams": parameters,
        "nodes": [node | {"clerp": clerps[node["node_id"]]} for node in nodes.values()],
        "links": _links(circuit, _weights(circuit, scores), ids),
    }


def read_neuronpedia(path: Path) -> dict[str, Any]:
    """The JSON of a file, for `from_neuronpedia`.

    Raises `RunError` for a file that cannot be read or is no strict JSON, `CircuitError` for one
    of more than `MOST_BYTES` or that is not plain.
    """
    with explained("read", path):
        if path.exists() and not path.is_file():
            raise CircuitError(f"{path} is not a plain file; name a JSON file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise CircuitError(f"{path} has more than {MOST_BYTES:,} bytes; graphs are smaller")
    return from_json(data, where=str(path))


def from_neuronpedia(data: dict[str, Any], graph: Graph) -> tuple[Circuit, dict[str, float], Marks]:
    """The circuit, the score of each of its edges, and the marks: what `to_neuronpedia` wrote.

    Raises `CircuitError` for what is no attribution graph, nodes and links that this network does
    not have (features of another network above all), and labels that are no plain, short text.
    """
    file = _checked(_File, data, where="the graph")
    told = file.metadata.workbench
    if told is not None and told != _shape(graph):
        raise CircuitError(
            f"the graph is of a network with {_quoted(told)}, this one has {_shape(graph)}; read "
            "it for the network that it was made of"
        )
    named = _named(file.nodes, graph)
    member, found = torch.zeros_like(graph.is_edge), {}
    for link in file.links:
        for index, weight in _edges(link, named, graph).items():
            if index in found:
                raise CircuitError(f"{_between(link)} is there twice; add the two up")
            member[index], found[index] = True, weight
    weights = {graph.name(index): found[index] for index in sorted(found)}
    return Circuit(graph, member), weights, _marks(file, named)


# ---------------------------------------------------------------------- writing


def _prompt(task: Task, example: Tensor, graph: Graph) -> dict[str, Any]:
    tokens = task.encode(example)[0].tolist()
    if graph.n_pos not in (None, len(tokens)):
        raise CircuitError(
            f"the graph has {graph.n_pos} positions, the input {len(tokens)}; give one of its task"
        )
    words = [task.vocabulary[token] for token in tokens]
    return {"prompt_tokens": words, "prompt": task.text(example)[0]}


def _weights(circuit: Circuit, scores: Any) -> dict[str, float]:
    """The score of every edge of the circuit."""
    values = scores.values if isinstance(scores, Scores) else scores
    if scores is None:
        values = dict.fromkeys(circuit.edges, 1.0)
    elif isinstance(values, Tensor):
        if values.shape != circuit.member.shape:
            raise CircuitError(
                f"scores {list(values.shape)} do not fit the graph, {list(circuit.member.shape)}"
            )
        chosen = values.detach().cpu()[circuit.member.cpu()].tolist()
        values = dict(zip(circuit.edges, chosen, strict=True))
    weights = {edge: float(values.get(edge, math.nan)) for edge in circuit.edges}
    for edge, weight in weights.items():
        if not math.isfinite(weight):
            told = f"has the score {weight}" if edge in values else "has no score"
            raise CircuitError(f"{edge} {told}; give a finite one for every edge of the circuit")
    return weights


def _shape(graph: Graph) -> dict[str, int | bool | None]:
    """What decides which nodes a network has."""
    layers, heads, mlps = graph.config.n_layers, graph.config.n_heads, graph.config.d_mlp > 0
    return {"n_layers": layers, "n_heads": heads, "mlps": mlps, "n_pos": graph.n_pos}


class _Place(NamedTuple):
    """Where the viewer draws a component, and as what."""

    layer: str
    feature: int | None
    feature_type: str


def _places(graph: Graph) -> dict[str, _Place]:
    """Every component's place, by rows."""
    places = {"embed": _Place("E", 0, "embedding"), "pos_embed": _Place("E", 1, "pos embedding")}
    row = 0
    for layer in range(graph.config.n_layers):
        row += 1
        for head in range(graph.config.n_heads):
            places[f"a{layer}.h{head}"] = _Place(str(row), head, "attention head")
        if graph.config.d_mlp:
            row += 1
            places[f"m{layer}"] = _Place(str(row), 0, "mlp")
    return places | {LOGITS: _Place(str(row + 1), 0, "logit")}


def _nodes(circuit: Circuit, answer: int) -> dict[str, dict[str, Any]]:
    """Nodes with an edge in or out, but for their words; by name: `a0.h1`, or `a0.h1@3`."""
    graph, touched = circuit.graph, set()
    for *at, writer, reader in circuit.member.nonzero().tolist():
        position = at[0] if at else answer
        touched.add((graph.writers[writer], position))
        touched.add((component(graph.readers[reader]), position))
    places = _places(graph)
    if all(places[name].layer == "E" or name == LOGITS for name, _ in touched):
        touched.add(("a0.h0", answer))  # linked to nothing: the viewer needs a numbered row
    order = {name: i for i, name in enumerate(places)}
    nodes = {}
    for name, position in sorted(touched, key=lambda node: (order[node[0]], node[1])):
        place = places[name]
        nodes[name if graph.n_pos is None else f"{name}@{position}"] = {
            "node_id": f"{place.layer}_{place.feature}_{position}",
            "jsNodeId": f"{place.layer}_{place.feature}-{position}",
            "ctx_idx": position,
            **place._asdict(),
        }
    return nodes


def _links(
    circuit: Circuit, weights: Mapping[str, float], ids: Mapping[str, str]
) -> list[dict[str, Any]]:
    """One link for each pair of nodes."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for edge in circuit.edges:
        name, at, position = edge.partition("@")
        writer, reader = name.split("->")
        ends = (ids[writer + at + position], ids[component(reader) + at + position])
        letter = reader.removeprefix(component(reader))[1:-1]
        found.setdefault(ends, {})[letter] = weights[edge]
    links = []
    for (source, target), parts in found.items():
        weight = sum(parts.values())
        if not math.isfinite(weight):
            raise CircuitError(f"the scores from {source} to {target} add up to {weight}")
        link: dict[str, Any] = {"source": source, "target": target, "weight": weight}
        links.append(link if "" in parts else link | {"reads": parts})
    return links


# ---------------------------------------------------------------------- reading


class _Loose(pydantic.BaseModel):
    """What must be there, of the right type; more may be."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class _Metadata(_Loose):
    slug: str
    scan: str
    prompt_tokens: list[str]
    prompt: str
    workbench: dict[str, int | bool | None] | None = None


class _Parameters(_Loose):
    pinnedIds: list[str] = Field(default_factory=list)
    supernodes: list[Annotated[list[str], Field(min_length=1)]] = Field(default_factory=list)
    workbench: Marks = Marks()


class _Node(_Loose):
    node_id: str
    feature: int | None
    layer: str | int
    ctx_idx: int
    feature_type: str
    jsNodeId: str
    clerp: str


class _Link(_Loose):
    source: str
    target: str
    weight: float
    reads: Annotated[dict[Literal["q", "k", "v"], float], Field(min_length=1)] | None = None


class _File(_Loose):
    metadata: _Metadata
    qParams: _Parameters
    nodes: list[_Node]
    links: list[_Link]


def _checked(model: type[M], value: Any, *, where: str) -> M:
    """A model from JSON. Raises `CircuitError`, in one line whatever text is in it."""
    try:
        return model.model_validate_json(json.dumps(value, allow_nan=False))
    except pydantic.ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        key = _quoted(".".join(str(part) for part in first["loc"]))
        told = f"{where}: {key}: {first['msg']}, got {_quoted(first['input'])}"
    except (ValueError, TypeError, RecursionError) as error:
        told = f"{where} is no strict JSON: {_quoted(str(error))}"
    raise CircuitError(told)


def _named(nodes: list[_Node], graph: Graph) -> dict[str, str]:
    """The name of every node, by its id."""
    for node in nodes:
        if node.feature_type in FEATURES:
            raise CircuitError(
                f"node {_quoted(node.node_id)} is a {node.feature_type!r}, a feature of another "
                "network (a transcoder); only heads, MLPs, embeddings and logits can be read"
            )
    components = {place: name for name, place in _places(graph).items()}
    named: dict[str, str] = {}
    for node in nodes:
        name = components.get(_Place(str(node.layer), node.feature, node.feature_type))
        if name is None or not 0 <= node.ctx_idx < (graph.n_pos or math.inf):
            raise CircuitError(
                f"node {_quoted(node.node_id)}: this network has no {_quoted(node.feature_type)} "
                f"{_quoted(node.feature)} in row {_quoted(node.layer)} at position "
                f"{_quoted(node.ctx_idx)}"
            )
        if node.node_id in named:
            raise CircuitError(f"two nodes have the id {_quoted(node.node_id)}")
        named[node.node_id] = name if graph.n_pos is None else f"{name}@{node.ctx_idx}"
    if len(set(named.values())) < len(named):
        raise CircuitError("two nodes stand for one component; each may be there once")
    return named


def _edges(link: _Link, named: Mapping[str, str], graph: Graph) -> dict[tuple[int, ...], float]:
    """Index and score of the edges that a link stands for."""
    for end in (link.source, link.target):
        if end not in named:
            raise CircuitError(f"{_between(link)}: no node has the id {_quoted(end)}")
    writer, _, at = named[link.source].partition("@")
    target, _, target_at = named[link.target].partition("@")
    if at != target_at:
        raise CircuitError(f"{_between(link)}: an edge stays at its position")
    is_head = f"{target}<q>" in graph.readers
    if is_head != (link.reads is not None):
        needs = "must say which of q, k and v" if is_head else "cannot be: no head"
        raise CircuitError(f"{_between(link)}: `reads` {needs} reads it")
    parts = {f"<{letter}>": score for letter, score in (link.reads or {}).items()}
    parts = parts or {"": link.weight}
    total, largest = sum(parts.values()), max(map(abs, parts.values()))
    if not math.isclose(link.weight, total, rel_tol=0, abs_tol=1e-6 * largest):
        raise CircuitError(f"{_between(link)}: the weight is {link.weight}, `reads` sum to {total}")
    found: dict[tuple[int, ...], float] = {}
    for port, score in parts.items():
        reader = target + port
        known = writer in graph.writers and reader in graph.readers
        ends = (graph.writers.index(writer), graph.readers.index(reader)) if known else (0, 0)
        index = (int(at), *ends) if at else ends
        if not known or not bool(graph.is_edge[index]):
            raise CircuitError(f"{_between(link)}: no edge leads from {writer} to {reader}")
        found[index] = score
    return found


def _marks(file: _File, named: Mapping[str, str]) -> Marks:
    """The marks as they were kept, or as the viewer's fields now have them."""
    told, now = file.qParams.workbench, file.qParams
    clerps, fields = shown(told, {name: node_id for node_id, name in named.items()})
    for one in (*now.pinnedIds, *(one for group in now.supernodes for one in group[1:])):
        if one not in named:
            raise CircuitError(f"pinnedIds or supernodes speak of {_quoted(one)}, which is no node")
    changed: dict[str, Any] = {}
    if any(clerps[node.node_id] != node.clerp for node in file.nodes):
        labels = {
            named[one.node_id]: label_in(without_position(named[one.node_id]), one.clerp)
            for one in file.nodes
        }
        of_edges = {edge: label for edge, label in told.labels.items() if "->" in edge}
        changed["labels"] = of_edges | {
            name: one for name, one in labels.items() if one is not None
        }
    if now.pinnedIds != fields["pinnedIds"]:
        changed["pinned"] = [named[one] for one in now.pinnedIds]
    if now.supernodes != fields["supernodes"]:
        changed["groups"] = [
            {"name": name, "nodes": [named[one] for one in ids]} for name, *ids in now.supernodes
        ]
    return _checked(Marks, told.model_dump(mode="json") | changed, where="labels and groups")


def _between(link: _Link) -> str:
    return f"the link from {_quoted(link.source)} to {_quoted(link.target)}"


def _quoted(value: Any) -> str:
    """Foreign text in a message: on one line, nothing that steers a terminal, not too long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
