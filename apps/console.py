"""What a person sees in the terminal of what was found."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from apps.drawing import row_names, title
from apps.terminal import VERDICT_STYLES as VERDICT_STYLES
from apps.terminal import cell as cell
from apps.terminal import err as err
from apps.terminal import follow as follow
from apps.terminal import out as out
from apps.terminal import show_whole as show_whole
from apps.terminal import table as table
from circuits.analyses._findings import judged_on_others as judged_on
from circuits.patching import Sweep


def show_explanation(document: dict[str, Any], report: str) -> None:
    """The short account of an explanation: verdict, findings beside controls, where the rest is."""
    console = out()
    console.print(headline(document))
    if document["findings"]:
        rows: list[list[Any]] = []
        for finding in document["findings"]:
            numbers = [float(finding["value"]), finding["held_out"], finding["verdict"]]
            rows.append([finding["id"], *numbers])
            for control in finding["controls"]:
                rows.append([f"  {control['name']}", float(control["value"]), None, ""])
        heads = ["finding, then its controls", "value", "held out", "verdict"]
        console.print(table(heads, rows, foldable=0))
    console.print(f"report: {escape(report)}", soft_wrap=True)


def headline(document: dict[str, Any]) -> str:
    """Task, accuracy and verdict as a few lines of markup; how well the task is done goes first."""
    scope = "all" if document["exhaustive"] else "a sample of"
    right = f"{document['accuracy']:.2%} right on {scope} {document['n_inputs']:,} inputs"
    held_out = document["held_out_accuracy"]
    if held_out is not None:
        right += f", {held_out:.2%} on those held out"
    if document["min_margin"] is not None:
        right += f"; smallest margin {document['min_margin']:.2f}"
    lines = [f"[bold]{escape(document['task']['name'])}[/bold]  {escape(document['run'])}", right]
    if document["mechanism"] is None:
        return "\n".join([*lines, escape(document["reason"])])
    verdict = document["verdict"]
    lines.append(
        f"mechanism {document['mechanism']}: {cell(verdict)} ({escape(document['reason'])})"
    )
    if document["key_frequencies"]:
        lines.append(f"key frequencies: {', '.join(map(str, document['key_frequencies']))}")
    return "\n".join(lines)


def show_sweep(
    document: dict[str, Any], found: Sweep, *, columns: Sequence[str] | None = None
) -> None:
    """A sweep as a coloured table (rows: all axes but the last), or its strongest neurons.

    Args:
        columns: names of the last axis' entries, such as tokens by position.
    """
    console = out()
    console.print(f"[bold]{escape(document['run'])}[/bold]  {escape(title(found))}")
    shown = f"{document['base_metric']:.3f} unpatched, {document['other_metric']:.3f} on the other"
    console.print(f"{found.metric}: {shown} input; effects of patching, * where q < 0.05")
    rows = document["rows"]
    if len(found.labels[-1]) > WIDEST:
        strongest = sorted(rows, key=lambda row: -abs(row["effect"]))[:LISTED]
        shown_columns = [*found.axes, "effect", "low", "high", "q"]
        listed = [[row[name] for name in shown_columns] for row in strongest]
        console.print(table(shown_columns, listed))
        return
    width, limit = len(found.labels[-1]), max(abs(row["effect"]) for row in rows) or 1.0
    made = Table(box=None, padding=(0, 0), title=found.axes[-1], title_justify="left")
    made.add_column("", no_wrap=True)
    for i, label in enumerate(found.labels[-1]):
        name = "" if columns is None else f"\n{escape(columns[i])} "
        made.add_column(f"{label} {name}", justify="right", no_wrap=True)
    names = row_names(found)
    for i, name in enumerate(names):
        cells = rows[i * width : (i + 1) * width]
        made.add_row(f"{name} ", *(_shaded(row, limit) for row in cells))
    needed = len(max(names, key=len)) + 2 + 8 * width  # cut numbers would be worse than wrapping
    wide = Console(file=sys.stdout, highlight=False, width=max(console.width, needed))
    wide.print(made)


def show_circuit(document: dict[str, Any], drawing: str) -> None:
    """A circuit's figures beside random circuits, its edges, and where it is drawn."""
    console = out()
    live = document["live_edges"]
    without = "" if live == document["edges"] else f" ({live} without dead ends)"
    console.print(
        f"[bold]{escape(document['run'])}[/bold]  {document['edges']} of "
        f"{document['total_edges']} edges{without} by {escape(document['method'])}, found on "
        f"{document['pairs_for_finding']:,} pairs: {cell(document['verdict'])} on "
        f"{judged_on(document['n'], document['exhaustive'])}"
    )
    console.print(escape(document["reason"]))
    names = ["faithfulness", "completeness", "minimality", "random_percentile", "random_mean"]
    console.print(table(names, [[document[name] for name in names]]))
    edges = sorted(document["edge_list"], key=lambda row: -abs(row["score"]))
    console.print(table(["edge", "score"], [[row["edge"], row["score"]] for row in edges]))
    console.print(f"drawing: {escape(drawing)}", soft_wrap=True)


def show_probed(document: dict[str, Any], *, columns: Sequence[str]) -> None:
    """One variable of a network: a table of sites by position, then the telling lines in full.

    Args:
        columns: the tokens of an example input, by position.
    """
    console = out()
    rows = document["rows"]
    console.print(
        f"[bold]{escape(document['run'])}[/bold]  {escape(document['variable'])}: accuracy of "
        f"{rows[0]['probe']} probes on held-out inputs, n = {document['n']:,}"
    )
    console.print("d decodable, S selective too, U used by the network", markup=False)
    places = list(dict.fromkeys(row["site"] for row in rows))
    positions = sorted({row["position"] for row in rows})
    made = Table(box=None, padding=(0, 0))
    made.add_column("", no_wrap=True)
    for at in positions:
        made.add_column(f"{at} \n{escape(columns[at])} ", justify="right", no_wrap=True)
    found = {(row["site"], row["position"]): row for row in rows}
    for place in places:
        cells = [found.get((place, at)) for at in positions]
        made.add_row(f"{escape(place)} ", *(_read_cell(row) for row in cells))
    needed = len(max(places, key=len)) + 2 + 8 * len(positions)
    Console(file=sys.stdout, highlight=False, width=max(console.width, needed)).print(made)
    show_probe_rows(sorted(rows, key=_telling)[:LISTED])
    console.print(escape(document["rule"]), soft_wrap=True)


def show_probe_rows(rows: Sequence[dict[str, Any]], *, leading: Sequence[str] = ()) -> None:
    """Lines of probes beside their controls: heads are short so that nothing is cut.

    `swapped` is the interchange accuracy of a learned subspace, `at best` its best control's.
    """
    shown = {
        "accuracy": "accuracy",
        "control_accuracy": "control",
        "selectivity": "selectivity",
        "q": "q",
        "answer_accuracy": "answers",
        "erased_accuracy": "erased",
        "random_erased_accuracy": "random",
    }
    if any(row["interchange_accuracy"] is not None for row in rows):
        shown |= {"interchange_accuracy": "swapped", "interchange_control": "at best"}
    listed = []
    for row in rows:
        low, high = row["interval"]
        accuracy, *others = (row[name] for name in shown)
        place = [row[name] for name in (*leading, "site", "position")]
        listed.append([*place, accuracy, f"{low:.3f} to {high:.3f}", *others, _says(row)])
    accuracy, *others = shown.values()
    heads = [*leading, "site", "position", accuracy, "95 % interval", *others, "says"]
    made = table(heads, listed)
    show_whole(made)


def _telling(row: dict[str, Any]) -> tuple[bool, bool, float]:
    """Used first, then selective, then by accuracy."""
    return (row["used"] is not True, row["selective"] is not True, -row["accuracy"])


def _says(row: dict[str, Any]) -> str:
    names = [name for name in ("decodable", "selective", "used") if row[name] is True]
    return ", ".join(names) or "nothing"


def _read_cell(row: dict[str, Any] | None) -> str:
    """An accuracy from 0 to 1 on a background as strong as it is, and its marks."""
    if row is None:
        return ""
    share = row["accuracy"]
    red, green, blue = (round(255 + share * (channel - 255)) for channel in (31, 95, 168))
    marks = "".join(
        letter
        for letter, name in (("d", "decodable"), ("S", "selective"), ("U", "used"))
        if row[name] is True
    )
    text = "white" if share > 0.6 else "black"
    return f"[{text} on rgb({red},{green},{blue})] {share:.2f}{marks[-2:]:<2}[/]"


WIDEST, LISTED = 40, 20
"""A table has at most so many columns; otherwise so many of the strongest effects are listed."""


def _shaded(row: dict[str, Any], limit: float) -> str:
    """An effect with a background as strong as it is: blue for more, orange for less."""
    share = min(1.0, abs(row["effect"]) / limit)
    full = (31, 95, 168) if row["effect"] > 0 else (192, 74, 0)
    red, green, blue = (round(255 + share * (channel - 255)) for channel in full)
    text = "white" if share > 0.6 else "black"
    star = "*" if row["q"] < 0.05 else " "
    return f"[{text} on rgb({red},{green},{blue})] {row['effect']:z.2f}{star}[/]"
