"""`workbench patch` and `workbench circuit`."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from apps import options

DIRECTIONS: dict[str, Literal["denoising", "noising"]] = {
    "denoise": "denoising",
    "noise": "noising",
}


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
    pairs: options.PairCount = 64,
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

    [bold]workbench patch RUN --site head --by position --clean "37 + 92 =" --corrupted
    "37 + 93 ="[/bold]
    """
    from apps import console
    from apps.cli import print_json
    from apps.drawing import draw_sweep
    from apps.targets import find_run
    from apps.tracing import Question, output_kind, patch_run
    from workbench.device import find_device
    from workbench.storage import atomic_write

    kind = None if out is None else output_kind(out)
    question = Question(
        metric=metric,
        ablation=ablation,
        direction=DIRECTIONS[direction],
        pairs=pairs,
        corruptions=tuple(corrupt or ()),
        clean=tuple(clean or ()),
        corrupted=tuple(corrupted or ()),
        seed=seed,
        step=step,
    )
    document, found = console.follow(
        patch_run(find_run(run, runs), question, site, by, find_device(device)),
        lambda progress: (progress.done, progress.total, progress.doing),
        title="patching",
        quiet=quiet,
    )
    if out is not None and kind is not None:
        data = found.to_csv(seed=seed).encode() if kind == "csv" else draw_sweep(found, kind)
        atomic_write(out, data)
    if as_json:
        print_json(document)
        return
    console.show_sweep(document, found)
    if out is not None:
        sys.stdout.write(f"{out}\n")


def circuit(
    run: Annotated[str, typer.Argument(help="A run, or a network directory.")],
    method: Annotated[
        str, typer.Option(help="How edges are scored: exact, eap, eap_ig, acdc, edge_masks…")
    ] = "eap_ig",
    edges: Annotated[
        int | None,
        typer.Option(help="How many edges; without it the smallest with faithfulness >= 0.9."),
    ] = None,
    selection: Annotated[
        Literal["absolute", "signed"],
        typer.Option(help="Rank edges by the size of their score, or by its sign as well."),
    ] = "absolute",
    direction: options.Towards = "noise",
    metric: options.Metric = "logit_difference",
    ablation: options.Ablation = "resample",
    pairs: options.PairCount = 64,
    corrupt: options.Corruptions = None,
    per_position: Annotated[
        bool, typer.Option("--per-position", help="Edges of their own at every position.")
    ] = False,
    exhaustive: Annotated[
        bool, typer.Option("--all", help="Evaluate on every input, however many.")
    ] = False,
    draws: Annotated[int, typer.Option(min=20, help="Random circuits to compare with.")] = 100,
    seed: options.Seed = 0,
    step: options.Step = None,
    out: Annotated[Path | None, typer.Option(help="Draw it, as .svg or .png.")] = None,
    runs: options.Runs = Path("runs"),
    device: options.Device = "auto",
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Find the circuit that does the task, and test it beside random circuits of its size."""
    from apps import console
    from apps.cli import print_json
    from apps.drawing import draw_circuit
    from apps.targets import find_run
    from apps.tracing import Question, output_kind, trace_circuit
    from workbench.device import find_device
    from workbench.errors import CircuitError
    from workbench.storage import atomic_write

    kind = "svg" if out is None else output_kind(out)
    if kind == "csv":
        raise CircuitError(f"--out {out}: a circuit is drawn as .svg or .png; its edges are --json")
    question = Question(
        metric=metric,
        ablation=ablation,
        direction=DIRECTIONS[direction],
        pairs=pairs,
        corruptions=tuple(corrupt or ()),
        seed=seed,
        step=step,
        per_position=per_position,
        exhaustive=exhaustive,
    )
    found_run = find_run(run, runs)
    steps = trace_circuit(
        found_run,
        question,
        method,
        edges,
        selection,
        find_device(device),
        n_random=draws,
    )
    traced: Any = console.follow(
        steps,
        lambda progress: (progress.done, progress.total, progress.doing),
        title="tracing",
        quiet=quiet,
    )
    where = found_run.path / f"circuit-{method}.svg" if out is None else out
    atomic_write(where, draw_circuit(traced.circuit, traced.scores.values, kind))
    if as_json:
        print_json(traced.document)
    else:
        console.show_circuit(traced.document, str(where))
