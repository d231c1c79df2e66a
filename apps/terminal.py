"""The terminal: tables on standard output, progress on standard error. Needs no torch."""

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from rich import box
from rich.cells import cell_len
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
from rich.text import Text

from workbench.strict import one_line

P = TypeVar("P")
R = TypeVar("R")

WIDE = 4000
"""Columns that no table needs."""

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
    return Console(file=sys.stdout, highlight=False, soft_wrap=False, emoji=False)


def err() -> Console:
    """Standard error, as it is now."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True, emoji=False)


def folded(text: str, *, first: str = "", rest: str | None = None, width: int) -> list[str]:
    """Text of one line as lines no wider than `width`, each behind a prefix of ours.

    A terminal begins a line that is too long again at its left edge, where our own words stand:
    what a stranger wrote must not get there.

    Args:
        first: before the first line.
        rest: before every other line; as `first` when None.
    """
    rest = first if rest is None else rest
    room = max(width - max(cell_len(first), cell_len(rest)), 20)
    if cell_len(text) <= room:
        return [first + text]
    lines = Text(text).wrap(out(), room, overflow="fold", no_wrap=False)
    return [(rest if i else first) + line.plain.rstrip() for i, line in enumerate(lines)]


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
            progress.update(task, completed=done, total=total, words=one_line(words))


@contextmanager
def _bar(quiet: bool) -> Generator[Progress, None, None]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err(),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    )
    with progress:
        yield progress


def table(
    columns: Iterable[str],
    rows: Iterable[Iterable[Any]],
    *,
    title: str = "",
    foldable: int | None = None,
) -> Table:
    """A plain table; numbers to the right, everything else escaped text.

    Args:
        foldable: the one column that may wrap; all but the first where None.
    """
    made = Table(title=escape(title) or None, box=box.SIMPLE, title_justify="left")
    listed = [list(row) for row in rows]
    for i, column in enumerate(columns):
        numeric = bool(listed) and all(isinstance(row[i], int | float | None) for row in listed)
        side: Literal["left", "right"] = "right" if numeric else "left"
        made.add_column(
            column,
            justify=side,
            overflow="fold",
            no_wrap=i == 0 if foldable is None else i != foldable,
        )
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


def show_whole(made: Table) -> None:
    """A table as wide as it needs to be: on a narrow terminal columns would be left out."""
    for column in made.columns:
        column.no_wrap = True
    wide = Console(file=sys.stdout, highlight=False, emoji=False, width=WIDE)
    width = wide.measure(made).maximum
    wide = Console(file=sys.stdout, highlight=False, emoji=False, width=width)
    wide.print(made)
