"""Marks on a circuit as the fields of Neuronpedia's viewer: labels, groups, pinned nodes."""

from collections.abc import Iterable, Mapping
from typing import Any

from circuits.graph import LOGITS
from workbench.session.schema import Marks

WITHOUT_PROBABILITY = " (p=)"
"""What a label of the logits ends with: the viewer looks for a probability there."""


def shown(marks: Marks, ids: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Marks as the viewer's own fields: every node's clerp by its id, and qParams.

    Nodes that are not there are left out; `a0.h1` is the head at every position.
    """
    everywhere: dict[str, list[str]] = {}
    for name, node_id in ids.items():
        everywhere.setdefault(without_position(name), []).append(node_id)

    def ids_of(names: Iterable[str]) -> list[str]:
        found = [[ids[name]] if name in ids else everywhere.get(name, []) for name in names]
        return list(dict.fromkeys(node_id for some in found for node_id in some))

    clerps = {}
    for name, node_id in ids.items():
        label = marks.labels.get(name, marks.labels.get(without_position(name)))
        clerps[node_id] = clerp_of(without_position(name), label)
    return clerps, {
        "pinnedIds": ids_of(marks.pinned),
        "supernodes": [[group.name, *ids_of(group.nodes)] for group in marks.groups],
        "linkType": "both",
        "clickedId": "",
        "sg_pos": "",
        "workbench": marks.model_dump(mode="json"),
    }


def without_position(name: str) -> str:
    """`a0.h1` of `a0.h1@3`."""
    return name.split("@")[0]


def clerp_of(name: str, label: str | None) -> str:
    """What the viewer shows on a node."""
    if name != LOGITS:
        return name if label is None else f"{name}: {label}"
    return "" if label is None else f"{name}: {label}{WITHOUT_PROBABILITY}"


def label_in(name: str, clerp: str) -> str | None:
    """The inverse of `clerp_of`; words of somebody else are a label as they are."""
    if clerp in (name, ""):
        return None
    if name == LOGITS:
        clerp = clerp.removesuffix(WITHOUT_PROBABILITY)
    return clerp.removeprefix(f"{name}: ")
