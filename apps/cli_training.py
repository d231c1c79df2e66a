"""`workbench probe training`: one variable at every checkpoint of a run."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from apps import options


def across(
    run: Annotated[str, typer.Argument(help="A run with several checkpoints.")],
    variable: Annotated[
        str, typer.Option(help="A variable of the task, such as a_squared; see `workbench tasks`.")
    ],
    steps: Annotated[
        str | None, typer.Option(help="Checkpoints, such as 0,100,2600; all where not given.")
    ] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="Such as blocks.0.hook_resid_mid@2; the residual stream where the answer is "
            "read where not given. Repeat for several, of one width."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--probe", help="ridge, logistic, mass_mean, pca, sparse, mlp, fourier…")
    ] = "ridge",
    seeds: Annotated[str, typer.Option(help="3, 0,4,7 or 0:3; one split of each kind each.")] = (
        "0:3"
    ),
    das: Annotated[
        bool, typer.Option("--das/--no-das", help="Search for the subspace whose swap changes it.")
    ] = True,
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Of that subspace.", show_default="an eighth of the width"),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(help="Write it as well, as .png, .svg or .csv. Repeat for several."),
    ] = None,
    runs: options.Runs = Path("runs"),
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """When does a variable become decodable, when used, and when does the network generalise?

    Every number beside its controls, at every checkpoint.
    """
    from apps import console
    from apps.cli import print_json
    from apps.question import output_kind
    from apps.recording import ask_run, document_of, keep
    from apps.targets import find_run, parse_seeds
    from probes.analyses.probe_training import ProbeTrainingAnalysis, across_of
    from probes.sites import parse_site
    from workbench import config
    from workbench.device import find_device
    from workbench.storage import atomic_write

    kinds = [output_kind(path) for path in out or []]
    found_run = find_run(run, runs)
    asked = {
        "variable": variable,
        "checkpoints": None if steps is None else parse_steps(steps),
        "sites": [str(parse_site(text, found_run.config.model)) for text in site or []] or None,
        "probe": method,
        "seeds": parse_seeds(seeds),
        "das": das,
        "rank": rank,
    }
    analysis = config.from_dict(ProbeTrainingAnalysis, asked, where="probe training")
    recorded = console.follow(
        ask_run(found_run, analysis, step=None, device=find_device(device)),
        lambda progress: (progress.done, progress.total, progress.doing),
        title="following",
        quiet=quiet,
    )
    found = across_of(recorded.record)
    for path, kind in zip(out or [], kinds, strict=True):
        atomic_write(path, drawn_or_listed(found, kind))
    keep(found_run, recorded)
    document = document_of(found_run, recorded.record)
    if as_json:
        print_json(document)
        return
    show_across(document)
    for path in out or []:
        sys.stdout.write(f"{path}\n")


def parse_steps(text: str) -> list[int]:
    """`0,100,2600` as numbers. Raises `ConfigError`."""
    from workbench.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and part.isascii() for part in parts):
        raise ConfigError(f"--steps {text!r}: write steps with commas between, such as 0,100,2600")
    return sorted({int(part) for part in parts})


def drawn_or_listed(found: Any, kind: str) -> bytes:
    """What a file holds: a picture, or for csv every number with its step, site and measure."""
    from apps.probing import to_csv
    from apps.training_drawing import draw_across

    return to_csv(rows_of(found)).encode() if kind == "csv" else draw_across(found, kind)


def rows_of(found: Any) -> list[dict[str, Any]]:
    """One row per number: the network's accuracies, then each measure and its controls.

    `of` is the variable, a control, or the network, whose accuracies have no site; `above` and
    `holds` are the rule's word on the variable, and empty for the others.
    """
    rows = []
    for checkpoint in found.to_dict()["checkpoints"]:
        step = checkpoint["step"]
        for name in ("accuracy", "train_accuracy", "held_out_accuracy"):
            if checkpoint[name] is not None:
                rows.append(_row(step, None, name, "network", checkpoint[name]))
        for measure in checkpoint["measures"]:
            place = (step, measure["site"], measure["kind"])
            rows.append(
                {
                    **_row(*place, found.variable, measure["level"]),
                    "above": measure["above"],
                    "holds": measure["holds"],
                }
            )
            rows += [_row(*place, name, level) for name, level in measure["controls"].items()]
    return rows


def _row(step: int, site: str | None, measure: str, of: str, level: dict[str, Any]) -> Any:
    kept = {name: level[name] for name in ("value", "n", "exhaustive")}
    interval = [level["low"], level["high"]]
    place = {"step": step, "site": site, "measure": measure, "of": of}
    return {**place, **kept, "interval": interval, "above": None, "holds": None}


def show_across(document: dict[str, Any]) -> None:
    """One table of checkpoints per site, then the times at which each measure rose."""
    from rich.console import Console
    from rich.markup import escape

    from apps import console

    console.out().print(
        f"[bold]{escape(document['run'])}[/bold]  {escape(document['variable'])}: "
        f"{document['n_classes']} values, {escape(document['probe'])} probes"
    )
    for site in dict.fromkeys(row["site"] for row in document["times"]):
        heads, rows = site_table(document["checkpoints"], site)
        made = console.table(heads, rows, title=site)
        for column in made.columns:
            column.no_wrap = True
        needed = sum(len(head) + 3 for head in heads) + 8
        wide = Console(file=sys.stdout, highlight=False, width=max(console.out().width, needed))
        wide.print(made)
    heads = ["site", "measure", "above", "holds", "alone"]
    times = [[row[head] for head in heads] for row in document["times"]]
    console.out().print(console.table(heads, times, title="from which step on"))
    console.out().print(escape(document["rule"]), soft_wrap=True)
    for words, key in (
        ("decodable", "decodable_from"),
        ("used", "used_from"),
        ("generalises", "generalises_from"),
    ):
        step = document[key]
        said = "never" if step is None else f"from step {step}"
        if key == "used_from" and document["rank"] is None:
            said = "not measured"
        console.out().print(f"{words}: [bold]{said}[/bold]")


def site_table(
    checkpoints: Sequence[dict[str, Any]], site: str
) -> tuple[list[str], list[list[Any]]]:
    """Heads and rows of one site's table: every measure, then its controls (– where not made)."""
    measured = [
        {made["kind"]: made for made in checkpoint["measures"] if made["site"] == site}
        for checkpoint in checkpoints
    ]
    controls: dict[str, dict[str, None]] = {}
    for by_kind in measured:
        for kind, made in by_kind.items():
            controls.setdefault(kind, {}).update(dict.fromkeys(made["controls"]))
    heads = ["step", "train", "held out"]
    for kind, names in controls.items():
        heads += [kind.replace("_", " "), *(f"| {name.replace('_', ' ')}" for name in names)]
    rows = []
    for checkpoint, by_kind in zip(checkpoints, measured, strict=True):
        known = (checkpoint["train_accuracy"], checkpoint["held_out_accuracy"])
        row = [checkpoint["step"], *(_share(level) for level in known)]
        for kind, names in controls.items():
            made = by_kind[kind]
            row += [_share(made["level"]), *(_share(made["controls"].get(name)) for name in names)]
        rows.append(row)
    return heads, rows


def _share(level: dict[str, Any] | None) -> str:
    return "–" if level is None else f"{level['value']:.3f}"
