"""What a person sees in the terminal: tables on standard output, progress on standard error."""

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

P = TypeVar("P")
R = TypeVar("R")

VERDICT_STYLES = {
    "identified": "bold green",
    "supported": "green",
    "partial": "bold yellow",
    "not identified": "bold red",
    "not supported": "red",
    "not applicable": "dim",
}


def out() -> Console:
    """Standard output, as it is now (tests replace it)."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=False)


def err() -> Console:
    """Standard error, as it is now."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def follow(
    steps: Generator[P, None, R],
    describe: Callable[[P], tuple[int, int, str]],
    *,
    title: str,
    quiet: bool,
) -> R:
    """Run a generator to its end behind a progress bar, and return what it returns.

    `describe` turns what it yields into (done, total, words).
    """
    with _bar(quiet) as progress:
        task = progress.add_task(title, total=None, words="")
        while True:
            try:
                done, total, words = describe(next(steps))
            except StopIteration as end:
                result: R = end.value
                return result
            progress.update(task, completed=done, total=total, words=words)


@contextmanager
def _bar(quiet: bool) -> Generator[Progress, None, None]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err(),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    )
    with progress:
        yield progress


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]], *, title: str = "") -> Table:
    """A plain table; numbers to the right, everything else escaped text."""
    made = Table(title=escape(title) or None, box=box.SIMPLE, title_justify="left")
    listed = [list(row) for row in rows]
    for i, column in enumerate(columns):
        numeric = bool(listed) and all(isinstance(row[i], int | float | None) for row in listed)
        side: Literal["left", "right"] = "right" if numeric else "left"
        made.add_column(column, justify=side, overflow="fold", no_wrap=i == 0)
    for row in listed:
        made.add_row(*(cell(value) for value in row))
    return made


def cell(value: Any) -> str:
    """A value as the text of a cell."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    text = escape(str(value))
    style = VERDICT_STYLES.get(str(value))
    return f"[{style}]{text}[/{style}]" if style else text


def show_explanation(document: dict[str, Any], report: str) -> None:
    """The short account of an explanation: verdict, findings beside controls, where the rest is."""
    console = out()
    console.print(headline(document))
    if document["findings"]:
        console.print(
            table(
                ["finding", "value", "held out", "controls (mean)", "verdict"],
                [
                    [
                        finding["id"],
                        float(finding["value"]),
                        finding["held_out"],
                        "; ".join(f"{c['name']} {c['value']:.3f}" for c in finding["controls"]),
                        finding["verdict"],
                    ]
                    for finding in document["findings"]
                ],
            )
        )
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
    keys = ", ".join(map(str, document["key_frequencies"])) or "none"
    lines.append(
        f"mechanism {document['mechanism']}: {cell(verdict)} ({escape(document['reason'])})"
    )
    return "\n".join([*lines, f"key frequencies: {keys}"])
