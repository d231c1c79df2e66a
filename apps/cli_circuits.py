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
    from apps.question import ask, axes_asked, output_kind
    from apps.targets import find_run
    from apps.tracing import patch_run, record_patching
    from workbench.device import find_device

    question = ask(
        metric=metric,
        ablation=ablation,
        direction=direction,
        pairs=pairs,
        corrupt=corrupt,
        seed=seed,
        step=step,
        clean=clean,
        corrupted=corrupted,
    )
    kind = None if out is None else output_kind(out)
    found_run = find_run(run, runs)
    steps = patch_run(found_run, question, site, axes_asked(by), find_device(device))
    patched = _follow(steps, "patching", quiet)
    record_patching(found_run, question, patched, out, kind)
    if as_json:
        print_json(patched.document)
        return
    console.show_sweep(patched.document, patched.sweep, columns=patched.columns)
    if out is not None:
        sys.stdout.write(f"{out}\n")


def circuit(
    run: Annotated[str, typer.Argument(help="A run, or a network directory.")],
    method: Annotated[
        str, typer.Option(help="How edges are scored: exact, eap, eap_ig, acdc, edge_masks…")
    ] = "eap_ig",
    edges: Annotated[
        int | None,
        typer.Option(
            help="How many edges; without it the fewest with faithfulness >= 0.93, so that it is "
            "at least 0.9 on other pairs."
        ),
    ] = None,
    selection: Annotated[
        str,
        typer.Option(
            help="Rank edges by the size of their score (absolute) or with sign (signed)."
        ),
    ] = "absolute",
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
        int, typer.Option(min=100, max=100_000, help="Random circuits to compare with.")
    ] = 100,
    seed: options.Seed = 0,
    step: options.Step = None,
    out: Annotated[Path | None, typer.Option(help="Draw it, as .svg or .png.")] = None,
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
    from apps.question import ask, output_kind
    from apps.targets import find_run
    from apps.tracing import record_circuit, trace_circuit
    from workbench.device import find_device

    question = ask(
        metric=metric,
        ablation=ablation,
        direction=direction,
        pairs=pairs,
        corrupt=corrupt,
        seed=seed,
        step=step,
        selection=selection,
        per_position=per_position,
        exhaustive=exhaustive,
    )
    kind = "svg" if out is None else output_kind(out, kinds=("png", "svg"))
    found_run = find_run(run, runs)
    steps = trace_circuit(found_run, question, method, edges, find_device(device), n_random=draws)
    traced = _follow(steps, "tracing", quiet)
    drawing = record_circuit(found_run, question, traced, out, kind)
    if as_json:
        print_json(traced.document)
    else:
        console.show_circuit(traced.document, str(drawing))


def _follow(steps: Generator[Any, None, R], title: str, quiet: bool) -> R:
    from apps import console

    return console.follow(
        steps,
        lambda progress: (progress.done, progress.total, progress.doing),
        title=title,
        quiet=quiet,
    )
