"""The computational graph of a transformer: writers, readers, and the edges between them.

A *writer* adds to the residual stream: the token embedding `embed`, the positional embedding
`pos_embed`, each head `a0.h1`, each MLP `m0`. A *reader* reads it: the queries, keys and values of
each head (`a1.h0<q>`, `a1.h0<k>`, `a1.h0<v>`), each MLP `m1`, and `logits`. An *edge* goes from a
writer to a later reader: `a0.h1->a1.h0<q>`; in a graph per position it stays at one position:
`a0.h1->m1@3`. Biases that no input changes (b_O) are no writers: nothing ever removes them.

Anything about edges is a tensor laid out `[writer, reader]`, or `[pos, writer, reader]` per
position, in the order of `Graph.writers` and `Graph.readers`.
"""

import functools
import re
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from workbench.errors import CircuitError
from workbench.model_config import ModelConfig
from workbench.registry import unknown

LOGITS = "logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One hook that readers read at: some of its heads, or all of what it holds."""

    hook: str
    start: int
    """Index of its first reader."""
    count: int
    """How many readers: one per head, or 1."""
    split: bool
    """Whether the hook holds one copy of the residual stream per head."""
    writers: int
    """How many writers, in order, come before it."""


@dataclass(frozen=True)
class Graph:
    """Writers, readers and edges of one network shape."""

    config: ModelConfig
    n_pos: int | None = None
    """Number of positions where each has its own edges; None for edges at all positions."""

    @functools.cached_property
    def writers(self) -> tuple[str, ...]:
        """Names, in the order in which they write."""
        names = ["embed", "pos_embed"]
        for layer in range(self.config.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.config.n_heads)]
            names += [f"m{layer}"] if self.config.d_mlp else []
        return tuple(names)

    @functools.cached_property
    def readers(self) -> tuple[str, ...]:
        """Names, in the order in which they read; per layer all queries, keys, then values."""
        names = []
        for layer in range(self.config.n_layers):
            heads = range(self.config.n_heads)
            names += [f"a{layer}.h{head}<{letter}>" for letter in "qkv" for head in heads]
            names += [f"m{layer}"] if self.config.d_mlp else []
        return (*names, LOGITS)

    @functools.cached_property
    def reading_hooks(self) -> tuple[Reader, ...]:
        """Where readers read, in order."""
        heads, found = self.config.n_heads, []
        start, before = 0, 2
        for layer in range(self.config.n_layers):
            for letter in "qkv":
                hook = f"blocks.{layer}.hook_{letter}_input"
                found.append(
                    Reader(hook=hook, start=start, count=heads, split=True, writers=before)
                )
                start += heads
            before += heads
            if self.config.d_mlp:
                hook = f"blocks.{layer}.hook_mlp_in"
                found.append(Reader(hook=hook, start=start, count=1, split=False, writers=before))
                start, before = start + 1, before + 1
        hook = f"blocks.{self.config.n_layers - 1}.hook_resid_post"
        found.append(Reader(hook=hook, start=start, count=1, split=False, writers=before))
        return tuple(found)

    @functools.cached_property
    def is_edge(self) -> Bool[Tensor, "*pos writer reader"]:
        """Which pairs are edges: the writer comes before the reader."""
        mask = torch.zeros(len(self.writers), len(self.readers), dtype=torch.bool)
        for reader in self.reading_hooks:
            mask[: reader.writers, reader.start : reader.start + reader.count] = True
        return mask if self.n_pos is None else mask.expand(self.n_pos, *mask.shape).clone()

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        return int(self.is_edge.sum())

    @functools.cached_property
    def edges(self) -> tuple[str, ...]:
        """The name of every edge, in the order of `is_edge.nonzero()`."""
        return tuple(self.name(tuple(index)) for index in self.is_edge.nonzero().tolist())

    def name(self, index: tuple[int, ...]) -> str:
        """The name of the edge at an index of a `[*pos, writer, reader]` tensor."""
        *pos, writer, reader = index
        at = f"@{pos[0]}" if pos else ""
        return f"{self.writers[writer]}->{self.readers[reader]}{at}"

    def index(self, edge: str) -> tuple[int, ...]:
        """The inverse of `name`. Raises `CircuitError` with the nearest edge."""
        match = re.fullmatch(r"(\S+)->([^@\s]+)(?:@(\d+))?", edge)
        if match is not None and (match[3] is None) == (self.n_pos is None):
            pos = () if match[3] is None else (int(match[3]),)
            if match[1] in self.writers and match[2] in self.readers:
                found = (*pos, self.writers.index(match[1]), self.readers.index(match[2]))
                if not pos or pos[0] < (self.n_pos or 0):
                    if bool(self.is_edge[found]):
                        return found
        raise CircuitError(unknown("edge", edge, self.edges)[:400])


def component(node: str) -> str:
    """The head, MLP or end that a writer or reader belongs to: `a1.h0<q>` is of `a1.h0`."""
    return node.split("<")[0]
