"""`workbench patch` and `workbench circuit`."""

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from apps import options

R = TypeVar("R")


def patch(
    run: Annotated[str, typer.Argument(help="A run, or a network directory.")],
    site: Annotated[
        str, typer.Option(help="What to patch: resid_pre, attn_out, mlp_out, head, head_q, neuron…")
    ] = "head",
    by: Annotated[
        list[str] | None, typer.Option(help="Split further, such as --by position.")
    ] = None,
    direction: options.Towards = "denoise",
    metric: options.Metric = "logit_difference",
    ablation: options.Ablation = "resample",
    clean: Annotated[
        list[str] | None, typer.Option(help="A clean input as text, such as '37 + 92 ='.")
    ] = None,
    corrupted: Annotated[
        list[str] | None, typer.Option(help="Its corrupted twin, such as '37 + 93 ='.")
    ] = None,
    pairs: options.PairCount = None,
    corrupt: options.Corruptions = None,
    seed: options.Seed = 0,
    step: options.Step = None,
    out: Annotated[
        Path | None, typer.Option(help="Write it as well, as .png, .svg or .csv.")
    ] = None,
    runs: options.Runs = Path("runs"),
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Patch one part after another and show how much each moves the metric.

    With 8 pairs or more, the part that moves it most joins the findings.

    [bold]workbench patch RUN --site head --by position --clean "37 + 92 =" --corrupted
    "37 + 93 ="[/bold]
    """
    from apps import console
    from apps.cli import print_json
    from apps.question import axes_asked, output_kind, pairs_asked, pairs_written
    from apps.recording import ask_run, document_of
    from apps.targets import find_run
    from apps.tracing import keep_patching
    from circuits.analyses.patching import PatchingAnalysis, columns_of, sweep_of
    from workbench import config
    from workbench.device import find_device

    written = pairs_written(clean, corrupted, pairs=pairs, corrupt=corrupt)
    asked = pairs_asked(
        metric=metric,
        ablation=ablation,
        direction=direction,
        pairs=pairs,
        corrupt=corrupt,
        seed=seed,
    )
    asked |= written | {"site": site, "by": axes_asked(by)}
    kind = None if out is None else output_kind(out)
    analysis = config.from_dict(PatchingAnalysis, asked, where="patch")
    found_run = find_run(run, runs)
    steps = ask_run(found_run, analysis, step=step, device=find_device(device))
    recorded = _follow(steps, "patching", quiet)
    keep_patching(found_run, recorded, out, kind)
    document = document_of(found_run, recorded.record)
    if as_json:
        print_json(document)
        return
    console.show_sweep(document, sweep_of(*recorded), columns=columns_of(recorded.record))
    if out is not None:
        sys.stdout.write(f"{out}\n")


def circuit(
    run: Annotated[str, typer.Argument(help="A run, or a network directory.")],
    method: Annotated[
        str | None,
        typer.Option(
            help="How edges are scored: exact, eap, eap_ig, acdc, edge_masks…",
            show_default="eap_ig",
        ),
    ] = None,
    edges: Annotated[
        int | None,
        typer.Option(
            help="How many edges; without it the fewest with faithfulness >= 0.93, so that it is "
            "at least 0.9 on other pairs."
        ),
    ] = None,
    selection: Annotated[
        str | None,
        typer.Option(
            help="Rank edges by the size of their score (absolute) or with sign (signed).",
            show_default="absolute",
        ),
    ] = None,
    given: Annotated[
        Path | None,
        typer.Option(
            help="Judge this circuit instead of searching one: a JSON list of edge names, a "
            "record's JSON, or a Neuronpedia graph."
        ),
    ] = None,
    direction: options.Towards = "noise",
    metric: options.Metric = "logit_difference",
    ablation: options.Ablation = "resample",
    pairs: options.PairCount = None,
    corrupt: options.Corruptions = None,
    per_position: Annotated[
        bool, typer.Option("--per-position", help="Edges of their own at every position.")
    ] = False,
    exhaustive: Annotated[
        bool, typer.Option("--all", help="Evaluate on every input it was not found on.")
    ] = False,
    draws: Annotated[
        int, typer.Option(min=100, max=10_000, help="Random circuits to compare with.")
    ] = 100,
    seed: options.Seed = 0,
    step: options.Step = None,
    out: Annotated[
        Path | None, typer.Option(help="Draw it, as .svg or .png; .json is a Neuronpedia graph.")
    ] = None,
    runs: options.Runs = Path("runs"),
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Find the circuit that does the task, and test it beside random circuits of its size.

    It is judged on inputs that it was not found on.
    """
    from apps import console
    from apps.cli import print_json
    from apps.question import output_kind, pairs_asked, search_asked
    from apps.recording import ask_run, document_of
    from apps.targets import find_run
    from apps.tracing import circuit_analysis, keep_circuit
    from workbench.device import find_device

    asked = pairs_asked(
        metric=metric,
        ablation=ablation,
        direction=direction,
        pairs=pairs,
        corrupt=corrupt,
        seed=seed,
    )
    asked |= {"per_position": per_position, "exhaustive": exhaustive, "n_random": draws}
    asked |= search_asked(method, edges, selection, given=given)
    kind = "svg" if out is None else output_kind(out, kinds=("png", "svg", "json"))
    found_run = find_run(run, runs)
    analysis = circuit_analysis(found_run, asked, given)
    steps = ask_run(found_run, analysis, step=step, device=find_device(device))
    recorded = _follow(steps, "tracing" if given is None else "judging", quiet)
    drawing = keep_circuit(found_run, analysis, recorded, out, kind)
    document = document_of(found_run, recorded.record)
    if as_json:
        print_json(document)
    elif given is None:
        console.show_circuit(document, str(drawing))
    else:
        _show_given(document, str(drawing))


def _show_given(document: dict[str, Any], drawing: str) -> None:
    """A given circuit's figures beside random circuits, and what the removal of its edges does."""
    from rich.markup import escape

    from apps import console

    live, scope = document["live_edges"], "every input" if document["exhaustive"] else "pairs"
    without = "" if live == document["edges"] else f" ({live} without dead ends)"
    console.out().print(
        f"[bold]{escape(document['run'])}[/bold]  {document['edges']} of "
        f"{document['total_edges']} edges{without}, as given: {console.cell(document['verdict'])} "
        f"on {scope}, {document['n']:,}"
    )
    console.out().print(escape(document["reason"]))
    names = ["faithfulness", "completeness", "minimality", "random_percentile", "random_mean"]
    console.out().print(console.table(names, [[document[name] for name in names]]))
    edges = sorted(document["edge_list"], key=lambda row: -row["removal"])
    rows = [[row["edge"], row["removal"]] for row in edges]
    console.out().print(console.table(["edge", "its removal changes"], rows))
    console.out().print(f"drawing: {escape(drawing)}", soft_wrap=True)


def _follow(steps: Generator[Any, None, R], title: str, quiet: bool) -> R:
    from apps import console

    return console.follow(
        steps,
        lambda progress: (progress.done, progress.total, progress.doing),
        title=title,
        quiet=quiet,
    )
