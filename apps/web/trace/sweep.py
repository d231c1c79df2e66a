"""The sweep of the Trace page: asked once, by content, with its controls and names of its cells.

No drawing here. A sweep that would take long is not done, but its time is told (`swept`), so that
the page can offer it as a job.
"""

import itertools
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch

from apps.web.cache import remembered
from apps.web.choice import Network, subject
from apps.web.trace.question import AskedQuestion, pairs_of
from circuits.analyses.patching import PatchingAnalysis, columns_of, sweep_of
from circuits.patching import Strongest, Sweep, strongest
from circuits.sweep_control import UntrainedSweeps, untrained_sweeps
from circuits.sweep_sites import SITES
from workbench import config
from workbench.analysis import Recorded, record_steps
from workbench.device import find_device
from workbench.finding import Finding
from workbench.pairs import Pairs
from workbench.positions import position_names
from workbench.progress import Progress, finish
from workbench.record import Checkpoint, record_id
from workbench.records import RECORDS, read_arrays, read_records

LONG = 2.0
"""Seconds from which a sweep is a job."""
STATISTICS = 1.2e-5
"""Seconds that intervals and p-values take for each cell and pair, on a slow core."""
NEEDS_MLP = ("mlp_in", "mlp_out", "neuron")
IN_WORDS = {
    "resid_pre": "stream before layer",
    "resid_mid": "stream within layer",
    "resid_post": "stream after layer",
    "attn_out": "attention of layer",
    "mlp_in": "input of MLP",
    "mlp_out": "MLP",
    "head": "head",
    "head_q": "query of head",
    "head_k": "key of head",
    "head_v": "value of head",
    "head_pattern": "pattern of head",
    "neuron": "neuron",
}
"""What a cell of each site is called, before its number."""
FEW = 8
"""Pairs of a quick control."""
WIDEST = 64
"""Neurons in a row of a map that is not split by position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One part of a sweep."""

    site: str
    layer: int
    head: int | None
    neuron: int | None
    position: int | None
    """None where all positions are patched together."""
    components: tuple[str, ...]
    """The parts of a circuit that it belongs to, such as `a0.h2`; none for a residual stream."""

    @property
    def component(self) -> str:
        """The part's short name: `0.2` for a head, `0.371` for a neuron, else the layer."""
        index = self.head if self.neuron is None else self.neuron
        return f"{self.layer}" if index is None else f"{self.layer}.{index}"

    def name(self, positions: tuple[str, ...]) -> str:
        """In words: `head 0.2 at position 2 =`."""
        where = "" if self.position is None else f" at position {positions[self.position]}"
        return f"{IN_WORDS[self.site]} {self.component}{where}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Swept:
    """A sweep with everything the page says of it."""

    recorded: Recorded
    sweep: Sweep
    best: Strongest | None
    """None with too few pairs, or a single part."""
    cells: tuple[Cell, ...]
    """In the order of the rows of the record and of the map."""
    positions: tuple[str, ...]
    """What stands at each position."""

    @property
    def finding(self) -> Finding | None:
        """What is claimed of the strongest part."""
        return next(iter(self.recorded.record.findings), None)

    @property
    def strongest(self) -> int:
        """The cell that the finding is about; without one, that of the largest mean effect."""
        return self.largest if self.best is None else self.cell_at(self.best.winner)

    @property
    def largest(self) -> int:
        """The cell of the largest mean effect over all pairs, those of the test included."""
        return int(self.sweep.mean.abs().flatten().argmax())

    def row(self, index: int) -> dict[str, Any]:
        """What the record says of a cell."""
        rows: Any = self.recorded.record.result["rows"]
        row: dict[str, Any] = rows[index]
        return row

    def cell_at(self, place: dict[str, int]) -> int:
        """The index of the cell with these indices along the axes."""
        places = itertools.product(*self.sweep.labels)
        wanted = tuple(place[axis] for axis in self.sweep.axes)
        return list(places).index(wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """How large effects are in untrained networks, and on how many pairs."""

    sweeps: UntrainedSweeps
    pairs: int


def unit_of(metric: str) -> str:
    """What a metric is measured in."""
    return "share" if metric == "accuracy" else "nats"


def sites_of(network: Network) -> tuple[str, ...]:
    """The sites that this network has."""
    has_mlp = bool(network.run.config.model.d_mlp)
    return tuple(name for name in SITES if has_mlp or name not in NEEDS_MLP)


@remembered
def swept(network: Network, analysis: PatchingAnalysis) -> Swept | float:
    """The sweep, or the seconds that it would take where these are more than `LONG`.

    Raises what the analysis raises.
    """
    run, device = network.run, find_device("auto")
    recorded = _unless_long(record_steps(analysis, run, step=network.step, device=device), analysis)
    return recorded if isinstance(recorded, float) else _with_names(network, recorded)


@remembered
def kept_sweep(network: Network, identity: str) -> Swept:
    """The sweep of a record beside the run, which is there. Raises `RunError` where it is not."""
    record = next(one for one in read_records(network.run) if one.id == identity)
    return _with_names(network, Recorded(record, read_arrays(network.run, record)))


@remembered
def identity_of(network: Network, analysis: PatchingAnalysis) -> str:
    """The id that the record of this sweep has."""
    digest = network.run.weights_sha256(network.step)
    checkpoint = Checkpoint(step=network.step, weights_sha256=digest)
    return record_id(analysis.kind, config.to_dict(analysis), (checkpoint,))


def is_kept(network: Network, identity: str) -> bool:
    """Whether the record of this id lies beside the run."""
    return (network.run.path / RECORDS / f"{identity}.json").is_file()


@remembered
def control_of(
    network: Network, asked: AskedQuestion, site: str, by: tuple[str, ...], *, quick: bool
) -> Control:
    """The same sweep on untrained networks: the control of every effect.

    `quick` takes one network and a few of the pairs, for sweeps that take long.
    """
    pairs = pairs_of(network, asked)
    if quick and len(pairs) > FEW:
        rows = torch.linspace(0, len(pairs) - 1, FEW).round().long()
        pairs = Pairs(task=pairs.task, clean=pairs.clean[rows], corrupted=pairs.corrupted[rows])
    steps = untrained_sweeps(
        subject(network),
        pairs,
        site,
        by=by,
        metric=asked.metric,
        ablation=asked.ablation,
        direction=asked.direction,
        seeds=(0,) if quick else (0, 1, 2),
    )
    return Control(sweeps=finish(steps), pairs=len(pairs))


def grid_of(found: Swept) -> tuple[tuple[str, ...], tuple[str, ...], str, str]:
    """Rows, columns and the names of both axes of the map of a sweep, row by row as its cells."""
    *before, last = found.sweep.axes
    if last == "position":
        labels = found.sweep.labels[-1]
        rows = tuple(dict.fromkeys(cell.component for cell in found.cells))
        return rows, tuple(found.positions[at] for at in labels), ".".join(before), "position"
    if last == "neuron":
        return _folded(found)
    layers = tuple(dict.fromkeys(str(cell.layer) for cell in found.cells))
    if last == "head":
        return layers, tuple(map(str, found.sweep.labels[-1])), "layer", "head"
    return layers, ("all",), "layer", "position"


def _folded(found: Swept) -> tuple[tuple[str, ...], tuple[str, ...], str, str]:
    """Neurons of a layer in several rows, as they would be too many for one."""
    n = len(found.sweep.labels[-1])
    width = next(one for one in range(min(n, WIDEST), 0, -1) if n % one == 0)
    width = n if width < 8 else width
    rows = tuple(cell.component for cell in found.cells[::width])
    return rows, tuple(f"+{i}" for i in range(width)), "layer.neuron", "and so many further"


def _with_names(network: Network, recorded: Recorded) -> Swept:
    found = sweep_of(*recorded)
    tokens = columns_of(recorded.record)
    places = (dict(zip(found.axes, at, strict=True)) for at in itertools.product(*found.labels))
    return Swept(
        recorded=recorded,
        sweep=found,
        best=strongest(found, seed=_seed(recorded)),
        cells=tuple(_cell(str(found.site), at, network.run.config.model.n_heads) for at in places),
        positions=position_names(network.task)
        if tokens is None
        else tuple(f"{i} {token}" for i, token in enumerate(tokens)),
    )


def _cell(site: str, at: dict[str, int], n_heads: int) -> Cell:
    layer, head = at["layer"], at.get("head")
    if head is not None:
        components: tuple[str, ...] = (f"a{layer}.h{head}",)
    elif site == "attn_out":
        components = tuple(f"a{layer}.h{one}" for one in range(n_heads))
    else:
        components = () if site.startswith("resid") else (f"m{layer}",)
    return Cell(
        site=site,
        layer=layer,
        head=head,
        neuron=at.get("neuron"),
        position=at.get("position"),
        components=components,
    )


def _seed(recorded: Recorded) -> int:
    seed = recorded.record.parameters["seed"]
    assert isinstance(seed, int)
    return seed


def _unless_long(
    steps: Generator[Progress, None, Recorded], analysis: PatchingAnalysis
) -> Recorded | float:
    """Go on as long as it cannot be told how long it takes, or it will not take long."""
    n_pairs = len(analysis.clean) or analysis.pairs
    first: tuple[float, int] | None = None
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            recorded: Recorded = end.value
            return recorded
        now, done = time.monotonic(), progress.done
        if first is None:  # the start, with what is loaded once, says nothing of the rest
            first = (now, done)
            seconds = 0.0
        else:
            seconds = (now - first[0]) / (done - first[1]) * progress.total
        seconds += STATISTICS * progress.total * n_pairs
        if seconds > LONG and done < progress.total:
            steps.close()
            return seconds
