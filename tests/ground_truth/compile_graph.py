"""The circuit of a Tracr network, read off the compile graph.

Tracr gives every variable of a RASP program basis directions of its own in the residual stream
(`tokens:a`, `hist_3:2`), and every operation a head, an MLP, or both:

    Aggregate       head: queries from one variable, keys from another, values from a third
    SelectorWidth   head: queries, keys, values from the BOS token; then an MLP that decodes it
    Map, SequenceMap, LinearSequenceMap   neurons of an MLP

Beside those there are helpers: a constant `one` (in every token's embedding) and the direction of
the BOS token, which heads attend to where a selector selects nothing. An edge writer -> reader is
true where the writer writes a variable or helper that the operation in the reader reads, and the
reader's result reaches the output. What the graph says is checked against the weights, variable by
variable: a disagreement is an error.

Under resample ablation a true edge must also carry something that differs between inputs: what
arrives through it, the reader's weights times the variable's values by the RASP interpreter, is
not the same for all inputs of the length in use (for queries and keys the weights are those of
their product: a selector that selects everything cannot tell keys apart). An edge that carries only
`indices`, a length or `one` is not in the resample truth.

Under zero ablation every read counts, with two exceptions that the construction leaves without an
effect; such edges are *undecided* rather than true:

- the helpers of an Aggregate's queries and keys, which decide nothing while its selector selects
  something: edges into its queries and keys that carry these alone;
- the queries and keys of a SelectorWidth that selects everything: without them attention is
  uniform, which is what they asked for. So for an edge that is the only one into them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tracr.compiler import basis_inference, nodes, rasp_to_graph
from tracr.rasp import rasp

from circuits.circuit import circuit_of
from circuits.graph import Graph, component
from workbench.model_config import ModelConfig
from workbench.params import Params

BOS, PAD, ONE = "compiler_bos", "compiler_pad", "one"
BOS_LABEL, ONE_LABEL = "tokens:" + BOS, ONE
HELPERS = frozenset({"bos", "one"})
SAME = 1e-6
"""What arrives is the same where it differs by less: values are of order 1, weights up to 100."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A compiled network in our parameters, its program, and the names of its directions."""

    program: rasp.SOp
    rasp_graph: nx.DiGraph
    sink: str
    params: Params
    config: ModelConfig
    labels: tuple[str, ...]
    """Of the residual stream's directions, in order."""


def rasp_graph(program: rasp.SOp, vocab: set[Any], length: int) -> tuple[nx.DiGraph, str]:
    """The compile graph with value sets and basis directions, and the label of its output."""
    extracted = rasp_to_graph.extract_rasp_graph(program)
    basis_inference.infer_bases(extracted.graph, extracted.sink, vocab, length)
    return extracted.graph, extracted.sink[nodes.ID]


def derive_truth(made: Compiled, inputs: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Every true edge: what it carries, and whether it is in the truth of each ablation.

    `inputs` are those of one length, all that pairs may be made of.
    """
    graph = Graph(made.config)
    variables = [variable_of(label) for label in made.labels]
    written, read = _written(made, graph), _read(made, graph)
    _check_against_graph(made, graph, variables, written, read)
    values = direction_values(made, inputs)
    carried = {}
    for edge in graph.edges:
        writer, reader = edge.split("->")
        through = written[writer] & (read[reader] != 0).any(1)
        if bool(through.any()):
            carried[edge] = through
    on_path = set(circuit_of(graph, carried).pruned().edges)
    aggregates, uniform = _aggregate_heads(made, written), _uniform_heads(made, written)
    into = [edge.split("->")[1] for edge in carried]
    found = []
    for edge, through in carried.items():
        if edge not in on_path:
            continue
        reader = edge.split("->")[1]
        names = {variables[i] for i in through.nonzero()[:, 0].tolist()}
        arriving = values[..., through] @ _received(read, reader)[through]
        node, matching = component(reader), reader[-2] in "qk"
        helper = matching and node in aggregates and names <= HELPERS
        helper |= matching and node in uniform and into.count(reader) == 1
        found.append(
            {
                "edge": edge,
                "carries": sorted(names),
                "zero": "undecided" if helper else "true",
                "resample": bool((arriving.amax(0) - arriving.amin(0)).max() > SAME),
            }
        )
    return found


def _received(read: dict[str, Tensor], reader: str) -> Float[Tensor, "d_model feature"]:
    """Weights onto what a reader can tell apart: queries and keys count through their products."""
    if reader[-1] != ">" or reader[-2] == "v":
        return read[reader]
    other = reader[:-2] + {"q": "k", "k": "q"}[reader[-2]] + ">"
    return read[reader] @ read[other].T


def variable_of(label: str) -> str:
    """The RASP variable that a direction belongs to; the two helpers have names of their own."""
    if label == BOS_LABEL:
        return "bos"
    return label.split(":")[0]


def direction_values(
    made: Compiled, inputs: Sequence[Sequence[Any]]
) -> Float[Tensor, "input pos d_model"]:
    """What every direction holds, by the RASP interpreter: one-hot, or the number itself.

    Position 0 holds the BOS token and `one`, nothing else.
    """
    n_pos = len(inputs[0]) + 1
    values = torch.zeros(len(inputs), n_pos, len(made.labels), dtype=torch.float64)
    values[:, 0, made.labels.index(BOS_LABEL)] = 1
    if ONE_LABEL in made.labels:
        values[:, :, made.labels.index(ONE_LABEL)] = 1
    for pos in range(1, n_pos):  # positions are embedded whether or not the program reads them
        values[:, pos, made.labels.index(f"indices:{pos - 1}")] = 1
    for node in made.rasp_graph.nodes.values():
        expr = node[nodes.EXPR]
        if not isinstance(expr, rasp.SOp) or isinstance(expr, rasp.IndicesType):
            continue
        results = [expr(list(given)) for given in inputs]
        numeric = rasp.is_numerical(expr)
        for direction in node[nodes.OUTPUT_BASIS]:
            column = made.labels.index(str(direction)) if str(direction) in made.labels else None
            if column is None:
                continue
            for row, result in enumerate(results):
                for pos, value in enumerate(result):
                    held = value if numeric else float(value == direction.value)
                    values[row, pos + 1, column] = float(held or 0)
        if isinstance(expr, rasp.SelectorWidth):
            column = made.labels.index(_width_direction(expr.label))
            widths = torch.tensor(results, dtype=torch.float64)
            values[:, 1:, column] = 1 / (1 + widths)
    return values


def graph_as_json(made: Compiled) -> dict[str, Any]:
    """The compile graph: every node with its kind, encoding and component, and the arrows."""
    written = _written(made, Graph(made.config))
    listed = []
    for label, node in made.rasp_graph.nodes.items():
        expr = node[nodes.EXPR]
        entry: dict[str, Any] = {"name": label, "kind": type(expr).__name__.removesuffix("Type")}
        if isinstance(expr, rasp.SOp):
            entry["encoding"] = rasp.get_encoding(expr).value
            names = [label, _width_direction(label)]
            entry["components"] = [
                writer for writer, mask in written.items() if _writes(made, mask, names)
            ]
        listed.append(entry)
    return {"output": made.sink, "nodes": listed, "arrows": sorted(made.rasp_graph.edges)}


def _width_direction(label: str) -> str:
    return f"{label}_selector_width_attn_output"


def _written(made: Compiled, graph: Graph) -> dict[str, Bool[Tensor, " d_model"]]:
    """Which directions each writer can write."""
    params = made.params
    found = {
        "embed": (params["embed.W_E"] != 0).any(0),
        "pos_embed": (params["pos_embed.W_pos"] != 0).any(0),
    }
    for layer in range(made.config.n_layers):
        for head in range(made.config.n_heads):
            W_V, W_O = (params[f"blocks.{layer}.attn.W_{x}"][head] for x in "VO")
            found[f"a{layer}.h{head}"] = ((W_V != 0).any(0).to(W_O) @ W_O.abs()) != 0
        found[f"m{layer}"] = (params[f"blocks.{layer}.mlp.W_out"] != 0).any(0)
    assert tuple(found) == graph.writers
    return found


def _read(made: Compiled, graph: Graph) -> dict[str, Float[Tensor, "d_model feature"]]:
    """The weights through which each reader reads."""
    params, found = made.params, {}
    for layer in range(made.config.n_layers):
        for letter in "QKV":
            for head in range(made.config.n_heads):
                name = f"a{layer}.h{head}<{letter.lower()}>"
                found[name] = params[f"blocks.{layer}.attn.W_{letter}"][head].double()
        found[f"m{layer}"] = params[f"blocks.{layer}.mlp.W_in"].double()
    found["logits"] = params["unembed.W_U"].double()
    assert tuple(found) == graph.readers
    return found


def _writes(made: Compiled, mask: Tensor, variables: Sequence[str]) -> bool:
    written = {variable_of(made.labels[i]) for i in mask.nonzero()[:, 0].tolist()}
    return bool(written & set(variables))


def _aggregate_heads(made: Compiled, written: dict[str, Tensor]) -> set[str]:
    labels = [
        label
        for label, node in made.rasp_graph.nodes.items()
        if isinstance(node[nodes.EXPR], rasp.Aggregate)
    ]
    return {
        name for name, mask in written.items() if name[0] == "a" and _writes(made, mask, labels)
    }


def _uniform_heads(made: Compiled, written: dict[str, Tensor]) -> set[str]:
    """Heads of those SelectorWidths that select every key for every query."""
    nodes_of, labels = made.rasp_graph.nodes, []
    for label, node in nodes_of.items():
        if isinstance(node[nodes.EXPR], rasp.SelectorWidth):
            selector = node[nodes.EXPR].selector
            keys, queries = (
                nodes_of[sop.label][nodes.VALUE_SET] for sop in (selector.keys, selector.queries)
            )
            if all(selector.predicate(key, query) for key in keys for query in queries):
                labels.append(_width_direction(label))
    return {
        name for name, mask in written.items() if name[0] == "a" and _writes(made, mask, labels)
    }


def _check_against_graph(
    made: Compiled,
    graph: Graph,
    variables: list[str],
    written: dict[str, Tensor],
    read: dict[str, Tensor],
) -> None:
    """Raise `AssertionError` unless every reader reads what the compile graph says it reads."""
    expected: dict[str, set[str]] = {reader: set() for reader in graph.readers}
    expected["logits"].add(made.sink)
    for label, node in made.rasp_graph.nodes.items():
        expr = node[nodes.EXPR]
        if not isinstance(expr, rasp.SOp) or isinstance(expr, rasp.TokensType | rasp.IndicesType):
            continue
        heads = [label if isinstance(expr, rasp.Aggregate) else _width_direction(label)]
        for writer, mask in written.items():
            if writer[0] == "a" and _writes(made, mask, heads):
                for letter, names in _head_reads(expr).items():
                    expected[f"{writer}<{letter}>"] |= names
            if writer[0] == "m" and _writes(made, mask, [label]):
                expected[writer] |= _mlp_reads(expr)
    for reader in graph.readers:
        rows = (read[reader] != 0).any(1).nonzero()[:, 0].tolist()
        found = {variables[i] for i in rows}
        assert found == expected[reader], (reader, found, expected[reader])


def _head_reads(expr: rasp.SOp) -> dict[str, set[str]]:
    values = {expr.sop.label} if isinstance(expr, rasp.Aggregate) else {"bos"}
    queries, keys = expr.selector.queries.label, expr.selector.keys.label
    return {"q": {queries, "one"}, "k": {keys, "bos"}, "v": values}


def _mlp_reads(expr: rasp.SOp) -> set[str]:
    if isinstance(expr, rasp.SelectorWidth):
        return {_width_direction(expr.label), "one", "bos"}
    if isinstance(expr, rasp.LinearSequenceMap):
        return {expr.fst.label, expr.snd.label}
    if isinstance(expr, rasp.SequenceMap):
        one = {"one"} if expr.fst.label != expr.snd.label else set()
        return {expr.fst.label, expr.snd.label} | one
    assert isinstance(expr, rasp.Map)
    return {expr.inner.label} | ({"one"} if rasp.is_numerical(expr.inner) else set())
