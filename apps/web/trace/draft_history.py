"""A circuit that is being edited: its state, what can be done to it, and its history. No Streamlit.

    ground = Ground(config=..., n_ctx=3, positions=(2,))     # the network it is a circuit of
    history = did(begin(), AddComponent("a0.h1"), ground)    # every operation is a value
    undone(history), redone(history)                         # so is every history

A history is JSON by its strict model. Edges are kept as bits, so that they cannot name what the
graph does not have. Marks name nodes as `a0.h1`, at a position `a0.h1@2`; labels also edges, as
`a0.h1->m0@2`.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, StringConstraints

from circuits.circuit import Circuit
from circuits.graph import LOGITS, Graph, component
from workbench.errors import AppError
from workbench.model_config import ModelConfig
from workbench.session.schema import Group, Marks
from workbench.strict import LABEL, Label, Strict, plain_line

MOST_STEPS = 100
"""Operations that can be undone; older ones are forgotten."""
MOST_HEX = 25_000
"""Digits of the bits of a state: 100,000 edges, as many as an evaluation takes."""


class State(Strict):
    """A circuit at one moment of its editing."""

    n_pos: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """As in `circuits.graph.Graph`."""
    bits: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]*$", max_length=MOST_HEX)] = ""
    """Which edges are in: bit i, from the lowest, is edge i of `Graph.edges`. Hexadecimal."""
    marks: Marks = Marks()
    scored_by: Label = ""
    """The record whose scores the edges are drawn by; the chosen method where empty."""


class Step(Strict):
    """What was done, and what came of it."""

    words: Label
    state: State


Steps = Annotated[tuple[Step, ...], Field(max_length=MOST_STEPS + 1)]


class History(Strict):
    """What was done to a circuit, and what was undone."""

    done: Annotated[Steps, Field(min_length=1)]
    """The last one is how it stands."""
    undone: Steps = ()
    """The last one is done again first."""

    @property
    def state(self) -> State:
        """How the circuit stands."""
        return self.done[-1].state

    @property
    def to_undo(self) -> str | None:
        """Words for what would be undone; None where there is nothing."""
        return self.done[-1].words if len(self.done) > 1 else None

    @property
    def to_redo(self) -> str | None:
        """Words for what would be done again; None where there is nothing."""
        return self.undone[-1].words if self.undone else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The network that a circuit is of."""

    config: ModelConfig
    n_ctx: int
    """How many positions the task has."""
    positions: tuple[int, ...]
    """Where the task's answers are read."""

    def graph(self, n_pos: int | None) -> Graph:
        """The graph of all edges. Raises `AppError` for positions that the network has not."""
        if n_pos not in (None, self.n_ctx):
            raise AppError(f"a circuit of {n_pos} positions; this task has {self.n_ctx}")
        return _graph(self.config, n_pos)

    def circuit(self, state: State) -> Circuit:
        """The circuit of a state. Raises `AppError` where it is of another graph."""
        graph = self.graph(state.n_pos)
        number = int(state.bits or "0", 16)
        if number >> graph.n_edges:
            raise AppError("the circuit has edges that this network has not; start a new one")
        text = bin(number)[2:].zfill(graph.n_edges)[::-1]
        member = torch.zeros_like(graph.is_edge)
        member[graph.is_edge] = torch.tensor([one == "1" for one in text])
        return Circuit(graph, member)


@functools.lru_cache(maxsize=16)
def _graph(config: ModelConfig, n_pos: int | None) -> Graph:
    return Graph(config, n_pos)


# ---------------------------------------------------------------------- histories


def begin(state: State | None = None) -> History:
    """A history in which nothing was done."""
    return History(done=(Step(words="start", state=state or State()),))


def did(history: History, operation: "Operation", ground: Ground) -> History:
    """A history with one operation more; the same one where it changes nothing.

    Raises `AppError` or `CircuitError` for what cannot be done.
    """
    state = operation.apply(history.state, ground)
    if state == history.state:
        return history
    step = Step(words=plain_line(operation.words)[:LABEL], state=state)
    return History(done=(*history.done, step)[-MOST_STEPS - 1 :])


def undone(history: History) -> History:
    """A history with its last operation taken back; the same one where there is none."""
    if history.to_undo is None:
        return history
    last = history.done[-1]
    return History(done=history.done[:-1], undone=(*history.undone, last))


def redone(history: History) -> History:
    """A history with what was undone last done again; the same one where there is none."""
    if not history.undone:
        return history
    last = history.undone[-1]
    return History(done=(*history.done, last), undone=history.undone[:-1])


# ---------------------------------------------------------------------- nodes and edges


def ends_of(edge: str) -> tuple[str, str]:
    """The two nodes of an edge: `a0.h1@2` and `m0@2` of `a0.h1->m0@2`; heads without a port."""
    body, at, position = edge.partition("@")
    writer, reader = body.split("->")
    return f"{writer}{at}{position}", f"{component(reader)}{at}{position}"


def nodes_of(graph: Graph) -> tuple[str, ...]:
    """Every node of a graph, in the order in which they write."""
    names = (*graph.writers, LOGITS)
    if graph.n_pos is None:
        return names
    return tuple(f"{name}@{at}" for at in range(graph.n_pos) for name in names)


def touching(edges: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those of some edges that begin or end at one of some nodes, in the order they come in.

    A node without a position stands for it at every position.
    """
    wanted = set(names)
    return [edge for edge in edges if any(_names(end) & wanted for end in ends_of(edge))]


def group_of(marks: Marks, node: str) -> Group | None:
    """The group that a node is in; at most one."""
    return next((one for one in marks.groups if node in one.nodes), None)


def _names(node: str) -> set[str]:
    return {node, node.partition("@")[0]}


# ---------------------------------------------------------------------- an operation


class Operation(ABC):
    """Something that can be done to a circuit. Subclasses are frozen dataclasses."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What is done, in a few words."""

    @abstractmethod
    def apply(self, state: State, ground: Ground) -> State:
        """The state after it. Raises `AppError` or `CircuitError` for what cannot be done."""


def bits_of(circuit: Circuit) -> str:
    """A circuit's edges as a state holds them."""
    member = circuit.member.cpu()[circuit.graph.is_edge].tolist()
    number = int("".join("1" if one else "0" for one in reversed(member)), 2)
    return f"{number:x}" if number else ""
