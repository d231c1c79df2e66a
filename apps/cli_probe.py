"""`workbench probe`: one variable of one network at once, or a sweep that survives.

workbench probe RUN --variable carry_2
workbench probe plan|run sweep.yaml ...    workbench probe status|query results/x ...
"""

import difflib
import math
import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from apps import options
from apps.cli_training import across
from workbench.errors import SweepError, UnknownName
from workbench.registry import unknown

NETWORK = "RUN"
"""The command that a run stands for: no name that a folder is likely to have."""


class ProbeGroup(TyperGroup):
    """A first word that is no subcommand is a run: `workbench probe RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            known = [name for name in self.commands if name != NETWORK]
            asks = any(word.partition("=")[0] == "--variable" for word in args)
            if difflib.get_close_matches(args[0], known, 1) and not asks:
                raise UnknownName(unknown("probe command", args[0], known))
            args = [NETWORK, *args]
        return super().parse_args(ctx, args)


probe = typer.Typer(
    cls=ProbeGroup,
    no_args_is_help=True,
    help="Where is a variable represented, and does the network use it?\n\n"
    "[bold]workbench probe RUN --variable carry_2[/bold] answers for one network at once; "
    "the commands below run sweeps over many networks, checkpoints and variables.",
)


@probe.command(NETWORK)
def network(
    run: Annotated[str, typer.Argument(help="A run, or a network directory.")],
    variable: Annotated[
        str, typer.Option(help="A variable of the task, such as carry_2; see `workbench tasks`.")
    ],
    method: Annotated[
        str,
        typer.Option("--probe", help="ridge, logistic, mass_mean, pca, sparse, mlp, fourier…"),
    ] = "ridge",
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="A hook, such as blocks.0.attn.hook_z; the residual stream where not given."
        ),
    ] = None,
    position: Annotated[
        list[int] | None, typer.Option(help="A position; all where not given. Repeat for several.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="3, 0,4,7 or 0:3; one split each.")] = "0:3",
    inputs: Annotated[
        int | None,
        typer.Option(help="How many inputs; a small domain is probed whole where not given."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="grouped, network (its own held-out inputs), out_of_distribution.")
    ] = "grouped",
    held_out_by: Annotated[
        str | None,
        typer.Option(help="With out_of_distribution: whose values the probe never sees."),
    ] = None,
    erase: Annotated[
        bool, typer.Option("--erase/--no-erase", help="Erase it at each site, and ask again.")
    ] = True,
    align: Annotated[
        list[int] | None,
        typer.Option(help="Also search a subspace of this rank whose swap changes it (DAS)."),
    ] = None,
    step: options.Step = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(help="Write it as well, as .png, .svg or .csv. Repeat for several."),
    ] = None,
    runs: options.Runs = Path("runs"),
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Probe one variable everywhere in a network, beside its controls, and erase it.

    The best site joins the findings: where the variable is represented, and where it is used.
    """
    from apps import console
    from apps.cli import print_json
    from apps.probing import write_probed
    from apps.question import output_kind
    from apps.recording import ask_run, document_of, keep
    from apps.targets import find_run, parse_seeds
    from probes.analyses.probe import ProbeAnalysis
    from workbench import config
    from workbench.device import find_device

    asked = {
        "variables": [variable],
        "hooks": site or None,
        "positions": position or None,
        "probes": [method],
        "seeds": parse_seeds(seeds),
        "n_inputs": inputs,
        "splits": [split],
        "held_out_by": held_out_by,
        "erase": erase,
        "align_ranks": align or [],
    }
    analysis = config.from_dict(ProbeAnalysis, asked, where="probe")
    for path in out or []:
        output_kind(path)
    found = find_run(run, runs)
    recorded = console.follow(
        ask_run(found, analysis, step=step, device=find_device(device)),
        lambda progress: (progress.done, progress.total, progress.doing),
        title="probing",
        quiet=quiet,
    )
    write_probed(recorded.record, out or [])
    keep(found, recorded)
    document = document_of(found, recorded.record)
    if as_json:
        print_json(document)
        return
    console.show_probed(document, columns=document["columns"])
    for path in out or []:
        sys.stdout.write(f"{path}\n")


probe.command("training")(across)

SweepFile = Annotated[
    Path, typer.Argument(help="A YAML file, or a Python script with a @probe function.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value: set any key, the value as YAML.")
]


def _directory(text: str) -> Path:
    """A directory that was named: an empty name would be the current folder."""
    if not text.strip():
        raise SweepError("the results directory has no name; give one, such as results/x")
    return Path(text)


Directory = Annotated[
    Path, typer.Argument(parser=_directory, metavar="DIR", help="A results directory.")
]


@probe.command()
def plan(sweep: SweepFile, overrides: Overrides = None, as_json: options.Json = False) -> None:
    """What a sweep will run: how many probes, bytes, and an estimated time. Nothing is written."""
    from apps import console
    from apps.cli import print_json
    from probes.estimate import estimate

    told = estimate(_sweep(sweep, overrides)).to_dict()
    if as_json:
        print_json(told)
        return
    console.out().print(console.table(["what", "how much"], list(told.items())))


@probe.command()
def run(
    sweep: SweepFile,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", parser=_directory, metavar="DIR", help="The results directory."
        ),
    ],
    overrides: Overrides = None,
    engine: Annotated[str, typer.Option(help="local, ray or submitit.")] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, where the engine has them.")
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Run a sweep, or what is left of it: stop it at any moment and run the same command again."""
    from apps import console
    from probes.batch.engine import engines

    kind = engines.get(engine)
    made = kind() if workers is None else _with_workers(kind, engine, workers)
    console.follow(
        _sweep(sweep, overrides).steps(output, engine=made),
        lambda done: (done.done, done.total, done.doing),
        title="probing",
        quiet=quiet,
    )
    _show_status(output, as_json)


@probe.command()
def status(directory: Directory, as_json: options.Json = False) -> None:
    """How far a results directory has come."""
    _show_status(directory, as_json)


@probe.command()
def query(
    directory: Directory,
    sql: Annotated[str, typer.Argument(help="SELECT ... FROM results")],
    as_json: options.Json = False,
) -> None:
    """Ask the finished results one SELECT; the view is called `results`. Works during a run."""
    from apps import console
    from apps.cli import print_json
    from probes.sweep import SweepResults

    table = SweepResults(directory).query(sql)
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    if as_json:
        print_json([dict(zip(table.column_names, map(_plain, row), strict=True)) for row in rows])
        return
    console.show_whole(console.table(table.column_names, rows))


@probe.command()
def summary(directory: Directory, as_json: options.Json = False) -> None:
    """One line per network, variable and site, with selectivity, q-values and what erasing does."""
    from apps import console
    from apps.cli import print_json
    from probes.analyses.probe import row_of
    from probes.sweep import SweepResults

    rows = [{**of, **row_of(line)} for of, line in SweepResults(directory).summary()]
    if as_json:
        print_json(rows)
        return
    console.show_probe_rows(rows, leading=("run", "step", "variable", "probe"))


def _sweep(path: Path, overrides: list[str] | None) -> Any:
    if path.suffix == ".py":
        from probes.script import sweep_of_script

        return sweep_of_script(path, overrides or [])
    from probes.sweep import Sweep

    return Sweep.from_yaml(path, overrides or [])


def _plain(value: Any) -> Any:
    """What SQL gives as what JSON holds: NaN and infinity are null, dates and the like are text."""
    if isinstance(value, Decimal):  # such as sum(n)
        value = int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _with_workers(kind: Any, engine: str, workers: int) -> Any:
    try:
        return kind(workers=workers)
    except TypeError:
        raise SweepError(f"engine {engine} takes no --workers; leave it out") from None


def _show_status(directory: Path, as_json: bool) -> None:
    from apps import console
    from apps.cli import print_json
    from probes.batch import status as status_of

    told = status_of(directory)._asdict()
    if as_json:
        print_json(told)
        return
    console.out().print(console.table(list(told), [list(told.values())]))
