"""`workbench session`: findings as one file that anyone can open, check and re-run."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apps import options
from apps.session_page_replayed import NOT_CHECKED
from apps.session_targets import LIMIT
from workbench.strict import one_line

if TYPE_CHECKING:
    from workbench.session import Session
    from workbench.session.replaying import Replayed

DRIFTED = 3
"""Exit status of a replay in which not every finding holds, or that had none to ask."""

session = typer.Typer(
    no_args_is_help=True,
    help="Findings that travel: one file that opens anywhere, re-runs, and cannot run anything.\n\n"
    "[bold]workbench session save RUN -o adds-on-a-circle.workbench[/bold] makes one.",
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A .workbench file.")]
Only = Annotated[
    list[str] | None,
    typer.Option(
        help="Only these findings, by id or by kind, such as sufficiency,circuit. Repeat, or "
        "separate by commas."
    ),
]
SECONDS = "Time that one record may take to replay."
ReplayLimit = Annotated[
    int | None,
    typer.Option(
        metavar="SECONDS", min=1, show_default=str(LIMIT), help=f"With --replay: {SECONDS}"
    ),
]


@session.command()
def save(
    run: Annotated[str, typer.Argument(help="A run whose findings to save.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Ends in .workbench.")
    ],
    note: Annotated[str | None, typer.Option(help="A note to whoever opens it.")] = None,
    only: Only = None,
    all_checkpoints: Annotated[
        bool,
        typer.Option(
            "--all-checkpoints", help="Every checkpoint, not just those that findings speak of."
        ),
    ] = False,
    runs: options.Runs = Path("runs"),
    as_json: options.Json = False,
) -> None:
    """Save a run's findings, with the weights they speak of, as one file.

    Everything that was found goes in: explanations, patching, circuits, probes.
    """
    from apps.cli import print_json
    from apps.session_targets import named_findings, session_output, written_note
    from apps.targets import find_run
    from workbench.session import open_session, save_session

    path, note, names = session_output(output), written_note(note), named_findings(only)
    found = find_run(run, runs)
    save_session(found, path, note=note, only=names, all_checkpoints=all_checkpoints)
    saved = open_session(path)
    if as_json:
        print_json({"session": str(path), "id": saved.id, "bytes": saved.archive.size})
        return
    n, shown = len(saved.findings), one_line(str(path))
    sys.stdout.write(
        f"{shown}: {n} {'finding' if n == 1 else 'findings'}, {saved.archive.size:,} bytes; "
        f"check it with: workbench session replay {shlex.quote(shown)}\n"
    )


@session.command()
def show(file: File, as_json: options.Json = False) -> None:
    """What a session claims, what it holds, and what it was made with. Nothing is run."""
    from apps import session_console
    from apps.cli import print_json
    from workbench.session import open_session

    opened = open_session(file)
    if as_json:
        print_json(session_console.told(opened))
    else:
        session_console.show(opened)


@session.command("verify")
def verify_(file: File, as_json: options.Json = False) -> None:
    """Check every digest and every bound. Shows that it is whole, not who wrote it."""
    from apps import session_console
    from apps.cli import print_json
    from workbench.session.verifying import verify

    verified = verify(file)
    if as_json:
        print_json(session_console.verified_document(verified))
    else:
        session_console.show_verified(verified)


@session.command(
    help="Ask every question again on this machine, and say which answers hold.\n\nExit status 0 "
    "only if findings were replayed and all of them hold; 3 where one drifted or cannot run, or "
    f"there is none.\n\n{NOT_CHECKED}"
)
def replay(
    file: File,
    only: Only = None,
    device: options.Device = "auto",
    limit: Annotated[int, typer.Option(metavar="SECONDS", min=1, help=SECONDS)] = LIMIT,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Ask every question again on this machine, and say which answers hold."""
    from apps import session_console
    from apps.cli import print_json
    from apps.session_targets import named_findings
    from workbench.session import open_session

    names, opened = named_findings(only), open_session(file)
    replayed = _replayed(opened, device, names, limit, quiet)
    if as_json:
        print_json(session_console.replayed_document(opened, replayed))
    else:
        session_console.show_replayed(replayed)
    if not session_console.all_hold(replayed):
        raise typer.Exit(DRIFTED)


def _replayed(
    opened: "Session", device: str, only: list[str] | None, limit: int, quiet: bool
) -> "Sequence[Replayed]":
    """Replay behind a progress bar."""
    from apps.terminal import follow
    from workbench.device import find_device
    from workbench.session.replaying import replay_steps

    return follow(
        replay_steps(opened, device=find_device(device), only=only, limit=float(limit)),
        lambda progress: (progress.done, progress.total, progress.doing),
        title="replaying",
        quiet=quiet,
    )


@session.command("diff")
def diff_(
    first: Annotated[Path, typer.Argument(metavar="A", help="A .workbench file.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    as_json: options.Json = False,
) -> None:
    """What differs between two sessions: tasks, weights, findings, circuits, notes."""
    from dataclasses import asdict

    from apps import session_console
    from apps.cli import print_json
    from workbench.session import diff, open_session

    changes = diff(open_session(first), open_session(second))
    if as_json:
        print_json([asdict(change) for change in changes])
    else:
        session_console.show_changes(changes)


@session.command()
def export(
    file: File,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="PAGE", help="Ends in .html; or in .json: see --only."
        ),
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(help="With -o graph.json: the circuit to write as a Neuronpedia graph."),
    ] = None,
    run_again: Annotated[
        bool, typer.Option("--replay", help="Replay it first, and show what holds.")
    ] = False,
    device: options.Device = "auto",
    limit: ReplayLimit = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a session as one page that opens offline, without the Workbench.

    Or one of its circuits as a graph for Neuronpedia's viewer, where the name ends in .json. The
    whole file is verified first.
    """
    from apps.session_page import session_page
    from apps.session_targets import named_findings, page_output
    from workbench.storage import atomic_write

    names = named_findings(only)
    path, seconds = page_output(output, only=names, replay=run_again, limit=limit)
    opened = _verified(file)
    if path.suffix == ".json":
        from apps.neuronpedia_files import session_graph

        content = session_graph(opened, names)
    else:
        replayed = _replayed(opened, device, None, seconds, quiet) if run_again else None
        content = session_page(opened, replayed=replayed).encode()
    atomic_write(path, content)
    sys.stdout.write(f"{one_line(str(path))}\n")


def _verified(file: Path) -> "Session":
    """The session, every byte of whose file was checked."""
    from workbench.errors import SessionError
    from workbench.session import open_session
    from workbench.session.verifying import verify

    opened = open_session(file)
    if verify(file).manifest != opened.manifest:
        raise SessionError(f"{one_line(str(file))}: it changed while it was read; try again")
    return opened


@session.command("open")
def open_(file: File, runs: options.Runs = Path("runs"), as_json: options.Json = False) -> None:
    """Make a run of a session, so that every other command works on it."""
    from apps.cli import print_json
    from workbench.session import open_as_run, open_session

    run = open_as_run(open_session(file), runs)
    if as_json:
        print_json({"run": str(run.path), "weights_sha256": run.weights_sha256()})
    else:
        sys.stdout.write(f"opened as {run.path}; explain it with: workbench explain {run.path}\n")
