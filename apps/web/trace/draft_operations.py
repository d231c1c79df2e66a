"""What can be done to a draft: each operation is a value, applied to one state for the next."""

from dataclasses import dataclass

from apps.web.trace.draft_history import (
    Ground,
    Operation,
    State,
    bits_of,
    ends_of,
    nodes_of,
    touching,
)
from circuits.circuit import INPUTS, Circuit, circuit_of
from circuits.graph import LOGITS
from workbench.errors import AppError
from workbench.session.schema import Group, Marks
from workbench.strict import LABEL, plain_line

MOST_GROUPS = 100
MOST_LABELS = 1000


@dataclass(frozen=True, slots=True)
class AddComponent(Operation):
    """Add a head or MLP: all its edges from the embeddings, to the logits, and to those in."""

    name: str
    """As in `a0.h1`; `a0.h1@2` is at that position alone, where positions have their own edges."""

    @property
    def words(self) -> str:
        return f"add {self.name}"

    def apply(self, state: State, ground: Ground) -> State:
        circuit = ground.circuit(state)
        graph = circuit.graph
        bare, at, position = self.name.partition("@")
        if bare not in graph.writers or bare in INPUTS:
            raise AppError(f"no head or MLP {bare[:40]!r}; choose one from the list")
        chosen = {*circuit.components(), *INPUTS, LOGITS, bare}
        where = {f"@{at}" for at in ground.positions}
        added = []
        for edge in graph.edges:
            ends = {end.partition("@")[0] for end in ends_of(edge)}
            elsewhere = at and "@" in edge and not edge.endswith(f"@{position}")
            unread = LOGITS in ends and "@" in edge and f"@{edge.partition('@')[2]}" not in where
            if bare in ends and ends <= chosen and not elsewhere and not unread:
                added.append(edge)
        return _with(state, circuit.union(circuit_of(graph, added)))


@dataclass(frozen=True, slots=True)
class AddEdge(Operation):
    """Add one edge."""

    edge: str

    @property
    def words(self) -> str:
        return f"add {self.edge}"

    def apply(self, state: State, ground: Ground) -> State:
        circuit = ground.circuit(state)
        return _with(state, circuit.union(circuit_of(circuit.graph, [self.edge])))


@dataclass(frozen=True, slots=True)
class Remove(Operation):
    """Remove an edge, or all edges of a node or a group."""

    name: str

    @property
    def words(self) -> str:
        return f"remove {self.name}"

    def apply(self, state: State, ground: Ground) -> State:
        circuit = ground.circuit(state)
        if "->" in self.name:
            gone = [self.name]
        else:
            named = [one.nodes for one in state.marks.groups if one.name == self.name]
            gone = touching(circuit.edges, named[0] if named else [self.name])
        return _with(state, circuit.difference(circuit_of(circuit.graph, gone)))


@dataclass(frozen=True, slots=True)
class PruneDeadEnds(Operation):
    """Remove edges on no path from the embeddings to the logits; those of pinned nodes stay."""

    @property
    def words(self) -> str:
        return "prune dead ends"

    def apply(self, state: State, ground: Ground) -> State:
        circuit = ground.circuit(state)
        return _with(state, circuit.pruned(ground.positions).union(_pinned(state, circuit)))


@dataclass(frozen=True, slots=True)
class Keep(Operation):
    """Take just these edges, such as those of the highest scores; those of pinned nodes stay."""

    edges: tuple[str, ...]
    by: str
    """What ranked them."""
    least: str = ""
    """The least size of their scores, where they were chosen by it."""

    @property
    def words(self) -> str:
        if self.least:
            return f"{len(self.edges)} edges of a score of {self.least} or more by {self.by}"
        return f"{len(self.edges)} best edges by {self.by}"

    def apply(self, state: State, ground: Ground) -> State:
        circuit = ground.circuit(state)
        best = circuit_of(circuit.graph, self.edges)
        return _with(state, best.union(_pinned(state, circuit)))


@dataclass(frozen=True, slots=True)
class Clear(Operation):
    """Remove every edge. Labels, groups and pins stay with their nodes."""

    @property
    def words(self) -> str:
        return "clear"

    def apply(self, state: State, ground: Ground) -> State:
        return state.model_copy(update={"bits": ""})


@dataclass(frozen=True, slots=True)
class Replace(Operation):
    """Take a circuit that was found, kept, read from a file, or is the whole network."""

    edges: tuple[str, ...]
    n_pos: int | None
    origin: str
    """Words for where it is from."""
    scored_by: str = ""
    marks: Marks | None = None
    """Those there are stay where None."""

    @property
    def words(self) -> str:
        return f"take {self.origin}"

    def apply(self, state: State, ground: Ground) -> State:
        circuit = circuit_of(ground.graph(self.n_pos), self.edges)
        marks = self.marks
        if marks is None:
            marks = state.marks if state.n_pos == self.n_pos else Marks()
        return State(n_pos=self.n_pos, bits=bits_of(circuit), marks=marks, scored_by=self.scored_by)


@dataclass(frozen=True, slots=True)
class Pin(Operation):
    """Pin a node, so that pruning leaves its edges; or let it loose."""

    node: str
    pinned: bool = True

    @property
    def words(self) -> str:
        return f"{'pin' if self.pinned else 'unpin'} {self.node}"

    def apply(self, state: State, ground: Ground) -> State:
        _known(self.node, state, ground)
        others = tuple(one for one in state.marks.pinned if one != self.node)
        return _marked(state, pinned=(*others, self.node) if self.pinned else others)


@dataclass(frozen=True, slots=True)
class Rename(Operation):
    """Label a node or an edge with words of one's own; no words take the label away."""

    part: str
    label: str

    @property
    def words(self) -> str:
        return f"label {self.part}" if self.label.strip() else f"unlabel {self.part}"

    def apply(self, state: State, ground: Ground) -> State:
        if "->" in self.part:
            _known_edge(self.part, state, ground)
        else:
            _known(self.part, state, ground)
        label = _line(self.label, "a label")
        labels = {name: text for name, text in state.marks.labels.items() if name != self.part}
        if label:
            labels[self.part] = label
        if len(labels) > MOST_LABELS:
            raise AppError(f"{len(labels)} labels; at most {MOST_LABELS}: take some away")
        return _marked(state, labels=labels)


@dataclass(frozen=True, slots=True)
class MakeGroup(Operation):
    """Draw some nodes as one. They leave the groups that they were in."""

    name: str
    nodes: tuple[str, ...]

    @property
    def words(self) -> str:
        return f"group {len(self.nodes)} nodes"

    def apply(self, state: State, ground: Ground) -> State:
        name = _line(self.name, "a group's name")
        if not name or "->" in name or name in nodes_of(ground.graph(state.n_pos)):
            raise AppError("a group needs a name of its own, not that of a node or an edge")
        if len(set(self.nodes)) < 2:
            raise AppError("a group needs two nodes or more; choose them first")
        for node in self.nodes:
            _known(node, state, ground)
        groups = _without(state.marks.groups, {*self.nodes}, name)
        nodes = tuple(dict.fromkeys(self.nodes))
        if len(groups) >= MOST_GROUPS:
            raise AppError(f"at most {MOST_GROUPS} groups; ungroup some")
        return _marked(state, groups=(*groups, Group(name=name, nodes=nodes)))


@dataclass(frozen=True, slots=True)
class Ungroup(Operation):
    """Draw the nodes of a group apart again."""

    name: str

    @property
    def words(self) -> str:
        return "ungroup"

    def apply(self, state: State, ground: Ground) -> State:
        groups = tuple(one for one in state.marks.groups if one.name != self.name)
        return _marked(state, groups=groups)


# ---------------------------------------------------------------------- helpers


def _with(state: State, circuit: Circuit) -> State:
    return state.model_copy(update={"bits": bits_of(circuit)})


def _marked(state: State, **changed: object) -> State:
    marks = state.marks.model_copy(update=changed)
    return state.model_copy(update={"marks": marks})


def _pinned(state: State, circuit: Circuit) -> Circuit:
    """The circuit's edges at pinned nodes."""
    return circuit_of(circuit.graph, touching(circuit.edges, state.marks.pinned))


def _known(node: str, state: State, ground: Ground) -> None:
    if node not in nodes_of(ground.graph(state.n_pos)):
        raise AppError(f"no node {node[:40]!r} in this network; choose one from the list")


def _known_edge(edge: str, state: State, ground: Ground) -> None:
    if edge not in ground.graph(state.n_pos).edges:
        raise AppError(f"no edge {edge[:40]!r} in this network; choose one from the list")


def _line(text: str, what: str) -> str:
    text = text.strip()
    if len(text) > LABEL:
        raise AppError(f"{what} of {len(text)} characters; at most {LABEL}")
    try:
        return plain_line(text)
    except ValueError as error:
        raise AppError(f"{what}: {error}; write plain text") from None


def _without(groups: tuple[Group, ...], nodes: set[str], name: str) -> tuple[Group, ...]:
    """Groups without some nodes, and without one that is made anew; empty ones vanish."""
    left = [
        Group(name=one.name, nodes=tuple(node for node in one.nodes if node not in nodes))
        for one in groups
        if one.name != name
    ]
    return tuple(one for one in left if one.nodes)
