"""Where in the app what a record speaks of can be looked at: the page, and what is chosen there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apps.web.choice import Network
from workbench.record import Record
from workbench.transformer import hook_names

PAGES = {
    "mechanism": ("parts", "Its parts"),
    "patching": ("trace", "Trace it"),
    "circuit": ("trace", "Trace it"),
    "evaluation": ("trace", "Trace it"),
    "probe": ("probes", "Its probes"),
    "probe_training": ("probes", "Its probes"),
}
"""Of each kind of record: the page, and what the link says."""
MOST_MAPS = 4
"""Variables that the Probes page draws at once."""
Address = dict[str, str | Sequence[str]]


def look_at(record: Record, network: Network) -> Address:
    """What the page of a record is to show of it, besides its run and step.

    Values may be a stranger's: a page drops what it does not know.
    """
    read = _READ.get(record.kind)
    found = {} if read is None else read(record.parameters)
    if record.kind == "patching":
        found["trace_cell"] = strongest_cell(record)
    elif record.kind == "probe":
        found |= _best_cells(record, network)
    elif read is _circuit:
        found["trace_kept"] = record.id
    return {name: value for name, value in found.items() if value not in ("", (), None)}


def strongest_cell(record: Record) -> str:
    """The row of a sweep that its finding names, as the map counts them; empty without one."""
    axes: Any = record.result.get("axes")
    rows: Any = record.result.get("rows")
    if not record.findings or not isinstance(axes, list) or not isinstance(rows, list):
        return ""
    claim = record.findings[0].claim
    for index, row in enumerate(rows):
        known = isinstance(row, dict) and all(axis in row for axis in axes)
        place = ", ".join(f"{axis} {row[axis]}" for axis in axes) if known else ""
        if place and f" at {place} moves " in claim:
            return str(index)
    return ""


def _best_cells(record: Record, network: Network) -> Address:
    """Of each variable that is shown, the cell of the map that its finding is about."""
    from apps.web.probes.lines import VALUES, lines_at, map_of, records_of
    from probes.analyses._findings import best_line
    from probes.analyses.probe import lines_of

    lines = lines_at(records_of(network, record.kind), record.step)
    sites, accuracy = hook_names(network.run.config.model), VALUES["Accuracy"]
    found: Address = {}
    for variable in _texts(record.parameters.get("variables"))[:MOST_MAPS]:
        own = [line for line in lines_of(record) if line.variable == variable]
        if own:
            best = best_line(own)
            kind = (best.variable, best.probe, best.split)
            map_ = [one for one in lines if (one.variable, one.probe, one.split) == kind]
            cells = map_of(map_, accuracy, sites=sites, columns=(), limit=None).lines
            if best in cells:
                found[f"probes_cell_{variable}"] = str(cells.index(best))
                found.setdefault("probes_kind", f"{best.probe}, {best.split}")
    return found


def _patching(asked: Mapping[str, Any]) -> Address:
    split = list(asked.get("by", ())) == ["position"]
    return _question(asked) | {
        "trace_site": _text(asked.get("site")),
        "trace_split": "true" if split else "false",
    }


def _circuit(asked: Mapping[str, Any]) -> Address:
    kept = {"trace_section": "Circuit", "trace_start": "Kept"}
    by_position = {"trace_per_position": "true"} if asked.get("per_position") is True else {}
    return _question(asked) | kept | by_position | {"trace_method": _text(asked.get("method"))}


def _question(asked: Mapping[str, Any]) -> Address:
    """The inputs and what patching means: `apps.web.trace.question`."""
    found: Address = {
        f"trace_{name}": _text(asked.get(name))
        for name in ("metric", "ablation", "direction", "pairs", "seed")
    }
    found["trace_corruptions"] = _texts(asked.get("corruptions"))
    clean, corrupted = _texts(asked.get("clean")), _texts(asked.get("corrupted"))
    if len(clean) == len(corrupted) == 1:
        found |= {"trace_of": "One pair", "clean": clean[0], "corrupted": corrupted[0]}
    return found


def _probe(asked: Mapping[str, Any]) -> Address:
    return {"probes_variables": _texts(asked.get("variables"))[:MOST_MAPS]}


def _probe_training(asked: Mapping[str, Any]) -> Address:
    variable = _text(asked.get("variable"))
    return {"probes_section": "Across training", "probes_followed": variable}


_READ: dict[str, Callable[[Mapping[str, Any]], Address]] = {
    "patching": _patching,
    "circuit": _circuit,
    "evaluation": _circuit,
    "probe": _probe,
    "probe_training": _probe_training,
}


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
