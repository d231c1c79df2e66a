"""Circuits as ECharts options: node `i` of the data is row `i`, edges follow.

Kinds of nodes differ in shape; the sign of an edge in dash and colour; its strength is its width.
"""

import math
from collections import defaultdict
from typing import Any

from apps.web.charts.chart import CircuitGraph, GraphEdge, GraphNode
from apps.web.charts.colours import Theme
from apps.web.charts.echarts_parts import Look, Option, legend_text, rounded, selecting

SHAPES = {
    "embedding": "roundRect",
    "head": "circle",
    "mlp": "rect",
    "logits": "diamond",
    "group": "path://M20,0L80,0L100,50L80,100L20,100L0,50Z",  # a hexagon
}
WIDEST, WIDEST_OF_MANY = 7.0, 2.5
"""Pixels of the strongest edge."""
THINNEST = 0.8
LONGEST_INSIDE = 8
"""Letters that fit into a node; longer labels stand beside it."""
ASPECT = 2.2
"""Width of the drawing over its height."""
MOST_LABELLED = 150
"""Nodes up to which each carries its label."""


def graph(chart: CircuitGraph, look: Look) -> Option:
    """A layered graph that can be zoomed and panned."""
    theme = look.theme
    small = len(chart.nodes) > MOST_LABELLED
    chosen = {
        "itemStyle": {"borderColor": theme.chosen, "borderWidth": 4},
        "lineStyle": {"color": theme.chosen, "opacity": 1.0, "shadowColor": theme.page},
    }
    label = {"show": not small, "position": "inside", "color": theme.text, "fontSize": 12}
    return {
        "animation": False,
        "tooltip": {"confine": True, "formatter": "<b>{@[0]}</b><br>{@[1]}"},
        "title": legend_text(look, _legend(chart, theme)),
        "series": [
            {
                "type": "graph",
                "layout": "none",
                "roam": True,
                "roamTrigger": "global",
                "scaleLimit": {"min": 0.5, "max": 20},
                "left": 40,
                "right": 70,
                "top": 24,
                "bottom": 50,
                "preserveAspect": "contain",
                "data": _nodes(chart, theme, small),
                "links": _links(chart, theme, WIDEST_OF_MANY if small else WIDEST),
                "label": label,
                "labelLayout": {"hideOverlap": True},
                "edgeSymbol": ["none", "none" if small else "arrow"],
                "edgeSymbolSize": 7,
                "emphasis": {"scale": False, "label": {"show": True}},
                **selecting(look, chosen, _chosen_keys(chart, look.chosen)),
            }
        ],
    }


def strongest(chart: CircuitGraph) -> float:
    """The score of an edge that is as wide as edges are."""
    scores = [abs(edge.score) for edge in chart.edges if math.isfinite(edge.score)]
    return chart.limit or max(scores, default=0.0) or 1.0


def strength(edge: GraphEdge, most: float) -> float:
    """Share of the widest that an edge is wide; none where its score is no number."""
    return abs(edge.score) / most if math.isfinite(edge.score) else 0.0


def spread(edges: tuple[GraphEdge, ...]) -> list[float]:
    """How much every edge is bent: those between the same two nodes (q, k, v) lie side by side."""
    between: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, edge in enumerate(edges):
        between[(edge.writer, edge.reader)].append(i)
    bent = [0.0] * len(edges)
    for same in between.values():
        for k, i in enumerate(same):
            bent[i] = round(0.18 * (k - (len(same) - 1) / 2), 4)
    return bent


def _nodes(chart: CircuitGraph, theme: Theme, small: bool) -> list[Option]:
    return [
        {
            "id": f"n{i}",
            "name": f"n{i}",
            "label": _label(node),
            "x": x,
            "y": y,
            "value": [node.name, f"{node.kind}{', pinned' if node.pinned else ''}"],
            "symbol": SHAPES[node.kind],
            "symbolSize": 9 if small else _room(node),
            "itemStyle": {
                "color": theme.node,
                "borderColor": theme.text,
                "borderWidth": 4 if node.pinned else 1.5,
            },
        }
        for i, (node, (x, y)) in enumerate(zip(chart.nodes, _places(chart), strict=True))
    ]


def _places(chart: CircuitGraph) -> list[tuple[float, float]]:
    """Places in a drawing about as wide as its page; upwards is negative there."""
    xs = [node.x for node in chart.nodes]
    ys = [node.y for node in chart.nodes]
    wide, tall = (max(one, default=0.0) - min(one, default=0.0) for one in (xs, ys))
    across, up = (ASPECT * 400 / wide if wide else 1.0), (400 / tall if tall else 1.0)
    return [(round(across * x, 2), round(-up * y, 2)) for x, y in zip(xs, ys, strict=True)]


def _links(chart: CircuitGraph, theme: Theme, widest: float) -> list[Option]:
    places = {node.name: f"n{i}" for i, node in enumerate(chart.nodes)}
    most = strongest(chart)
    found: list[Option] = []
    for i, (edge, bent) in enumerate(zip(chart.edges, spread(chart.edges), strict=True)):
        dead = "" if edge.live else " (dead end)"
        words = f": {edge.label}" if edge.label else ""
        found.append(
            {
                "id": f"e{i}",
                "name": f"e{i}",
                "source": places[edge.writer],
                "target": places[edge.reader],
                "value": [edge.name + words, f"{chart.measure}: {rounded(edge.score)}{dead}"],
                "lineStyle": {
                    **_stroke(edge, widest * strength(edge, most), theme),
                    "curveness": bent,
                },
            }
        )
    return found


def _stroke(edge: GraphEdge, width: float, theme: Theme) -> dict[str, Any]:
    width = round(max(THINNEST, width), 2)
    if not edge.live:
        return {"width": width, "type": "dotted", "color": theme.faint, "opacity": 0.45}
    if edge.score < 0:
        return {"width": width, "type": "dashed", "color": theme.less, "opacity": 0.85}
    return {"width": width, "type": "solid", "color": theme.more, "opacity": 0.85}


def _room(node: GraphNode) -> list[int]:
    """Width and height in pixels that hold a node's label, by its shape."""
    inside = node.label if len(node.label) <= LONGEST_INSIDE else ""
    wide, tall = 7 * len(inside) + 14, 26
    if node.kind == "logits":
        return [round(1.5 * wide), 40]
    return [max(wide, tall), tall]


def _label(node: GraphNode) -> Option:
    """A label is no template, whatever is in it: a space of no width parts its braces."""
    text = {"formatter": node.label.replace("{", "{\u200b")}
    return {**text, "position": "right"} if len(node.label) > LONGEST_INSIDE else text


def _legend(chart: CircuitGraph, theme: Theme) -> list[tuple[str, str]]:
    words = [(theme.more, "positive (solid)"), (theme.less, "negative (dashed)")]
    if not all(edge.live for edge in chart.edges):
        words.append((theme.faint, "dead end (dotted)"))
    return words


def _chosen_keys(chart: CircuitGraph, chosen: int | None) -> tuple[str, ...]:
    if chosen is None:
        return ()
    nodes = len(chart.nodes)
    return (f"n{chosen}",) if chosen < nodes else (f"e{chosen - nodes}",)
