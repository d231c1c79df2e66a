"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Runs = Annotated[Path, typer.Option("--runs", help="Directory that holds the runs.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes CUDA when it is there.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set any field of the task, network or recipe, such as p=31, d_model=64, "
        "steps=500 or lr=0:0,10:0.01. Repeat for several.",
    ),
]
RecipeName = Annotated[
    str | None, typer.Option("--recipe", help="A named recipe; see `workbench tasks`.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Step = Annotated[int | None, typer.Option(help="Of this checkpoint, not the last.")]

Metric = Annotated[
    str,
    typer.Option(
        help="What is measured at the answer: logit_difference, log_probability, kl_divergence or "
        "accuracy."
    ),
]
Ablation = Annotated[
    str,
    typer.Option(
        help="What is patched in: the other input's activation (resample), zero, or a mean "
        "(mean, mean_positional)."
    ),
]
Towards = Annotated[
    str,
    typer.Option(
        "--direction",
        help="denoise patches the clean activation into the corrupted run; noise the reverse.",
    ),
]
PairCount = Annotated[
    int | None,
    typer.Option(
        "--pairs", min=1, max=1_000_000, help="Pairs of inputs to draw.", show_default="64"
    ),
]
Corruptions = Annotated[
    list[str] | None,
    typer.Option("--corrupt", help="How to corrupt, such as change_a. Repeat for several."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn.")]
