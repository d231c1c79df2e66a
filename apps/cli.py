"""`workbench`: train, import and explain small transformers from the command line.

Results go to standard output, progress and complaints to standard error. Exit status 0 when done,
2 for the user's mistake or a bad file (one line says what, got, and how to mend it), 1 for ours.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from apps import cli_app
from apps.cli_circuits import circuit, patch
from apps.cli_probe import probe
from apps.cli_session import session
from apps.options import Device, Json, Quiet, RecipeName, Runs, Settings
from workbench.errors import WorkbenchError
from workbench.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Train small transformers on arithmetic in seconds, take them apart, and test every "
    "claim beside its control.\n\nStart with [bold]workbench explain modular_addition[/bold].",
)

INTERRUPTED = 130
RESUME = "stopped; nothing that was saved is damaged: give the same command again to finish"


def main() -> None:
    """Run the command line; every error becomes one line and an exit status."""
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED:  # typer's own translation of Ctrl-C
            _complain(RESUME, INTERRUPTED)
    except typer.Exit as exit:
        status = exit.exit_code
    except WorkbenchError as error:
        status = _complain(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        status = _complain(RESUME, INTERRUPTED)
    except typer.TyperException as error:
        text = getattr(error, "format_message", lambda: str(error))()
        status = _complain(f"{text} Try `workbench --help`.", 2)
    except BrokenPipeError:
        status = 0
    except OSError as error:
        status = _complain(f"{error}; free some space or mend its permissions", 2)
    except Exception as error:
        status = _complain(f"this is a bug in the Workbench: {type(error).__name__}: {error}", 1)
    sys.exit(status if isinstance(status, int) else 0)


@app.callback(invoke_without_command=True)
def version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Before any command."""
    if version:
        sys.stdout.write(f"workbench {__version__}\n")
        raise typer.Exit


@app.command("tasks")
def list_tasks(as_json: Json = False) -> None:
    """List the tasks, their settings and defaults, and the recipes."""
    from apps import console
    from circuits.mechanism import mechanism_for
    from workbench import config
    from workbench.recipe import RECIPES, default_recipe
    from workbench.task import make_task, tasks

    made = [make_task(name) for name in tasks]
    rows: list[dict[str, Any]] = []
    for task in made:
        mechanism = mechanism_for(task)
        rows.append(
            {
                "name": task.name,
                "summary": task.summary,
                "settings": config.to_dict(task),
                "n_inputs": task.domain_size,
                "recipe": default_recipe(task),
                "mechanism": None if mechanism is None else mechanism.name,
                "variables": list(task.variables(task.sample(1, _generator()))),
                "corruptions": list(task.corruptions),
            }
        )
    if as_json:
        print_json({"tasks": rows, "recipes": {k: config.to_dict(r) for k, r in RECIPES.items()}})
        return
    columns = ["task", "what", "settings", "inputs", "recipe", "mechanism"]
    console.out().print(
        console.table(
            columns,
            [
                [
                    row["name"],
                    row["summary"],
                    " ".join(f"{key}={value}" for key, value in row["settings"].items()),
                    row["n_inputs"],
                    row["recipe"],
                    row["mechanism"],
                ]
                for row in rows
            ],
        )
    )
    console.out().print(f"recipes: {', '.join(RECIPES)}")
    for row in rows:
        console.out().print(f"variables of {row['name']}: {', '.join(row['variables'])}")


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="A task; see `workbench tasks`.")],
    seeds: Annotated[str, typer.Option(help="3, 0,4,7 or 0:16; all train together.")] = "0",
    recipe: RecipeName = None,
    settings: Settings = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train networks on a task, one run per seed, all seeds together.

    The same command resumes training that was stopped, and hands back what is complete.
    """
    from apps import console
    from apps.targets import make_plan, parse_seeds
    from workbench.device import find_device

    plan = make_plan(task, recipe, settings or [])
    results = _train(plan, parse_seeds(seeds), runs, find_device(device).type, quiet)
    if as_json:
        print_json(results)
        return
    columns = ["seed", "steps", "grokking_step", "accuracy", "held_out_accuracy", "seconds", "run"]
    console.out().print(console.table(columns, [[r[c] for c in columns] for r in results]))


@app.command("import")
def import_(
    directory: Annotated[Path, typer.Argument(help="Holds config.json + weights.safetensors.")],
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Make a run of a network trained elsewhere."""
    from workbench.importing import import_network

    run = import_network(directory, runs)
    if as_json:
        print_json({"run": str(run.path), "weights_sha256": run.weights_sha256()})
    else:
        sys.stdout.write(f"imported as {run.path}; explain it with: workbench explain {run.path}\n")


@app.command()
def explain(
    target: Annotated[str, typer.Argument(help="A task (trained first), a run, or a network.")],
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**32 - 1, help="Seed of training, and of the controls' draws."),
    ] = 0,
    draws: Annotated[int, typer.Option(min=2, help="Random draws per control.")] = 20,
    step: Annotated[int | None, typer.Option(help="Explain this checkpoint.")] = None,
    recipe: RecipeName = None,
    settings: Settings = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find the parts that do the task, intervene on them over every input, and write a report."""
    from apps import console
    from apps.explain import explain_run
    from apps.recording import report_path
    from apps.targets import find_run, is_task_name, make_plan
    from workbench.device import find_device
    from workbench.run import open_run

    where = find_device(device)
    if is_task_name(target, runs):
        plan = make_plan(target, recipe, settings or [])
        run = open_run(_train(plan, [seed], runs, where.type, quiet)[0]["run"])
    else:
        _refuse_training_options(recipe, settings, target)
        run = find_run(target, runs)
    document = console.follow(
        explain_run(run, device=where, seed=seed, n_draws=draws, step=step),
        lambda progress: (progress.done, progress.total, progress.doing),
        title="explaining",
        quiet=quiet,
    )
    if as_json:
        print_json(document)
    else:
        console.show_explanation(document, str(report_path(run, step)))


@app.command("runs")
def list_all_runs(runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """List the runs, and say which are incomplete or damaged."""
    from apps import console
    from workbench.run import Run, list_runs

    rows: list[dict[str, Any]] = []
    for run in list_runs(runs):
        if not isinstance(run, Run):
            rows.append({"run": None, "task": None, "seed": None, "step": None, "state": str(run)})
            continue
        rows.append(
            {
                "run": str(run.path),
                "task": run.task.label,
                "seed": run.config.seed,
                "step": run.steps[-1] if run.steps else None,
                "state": _state(run),
            }
        )
    if as_json:
        print_json(rows)
        return
    columns = ["run", "task", "seed", "step", "state"]
    console.out().print(console.table(columns, [[row[c] for c in columns] for row in rows]))


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A run that was explained.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write it.")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write the report of an explained run again, as one HTML file that opens offline."""
    from apps.recording import report_path, saved_report
    from apps.targets import find_run
    from workbench.storage import atomic_write

    found = find_run(run, runs)
    path = output or report_path(found)
    atomic_write(path, saved_report(found).encode())
    sys.stdout.write(f"{path}\n")


app.command("app")(cli_app.app)
app.command()(patch)
app.command()(circuit)
app.add_typer(probe, name="probe")
app.add_typer(session, name="session")


def _train(
    plan: Any, seeds: list[int], runs: Path, device: str, quiet: bool
) -> list[dict[str, Any]]:
    """Train behind a progress bar; one row per seed, as `workbench train --json` prints it."""
    import torch

    from apps import console
    from workbench.accuracy import measure_accuracy
    from workbench.training import TrainingProgress, train_runs

    def words(progress: TrainingProgress) -> tuple[int, int, str]:
        n = len(progress.metrics)
        loss = sum(row.train_loss for row in progress.metrics) / n
        accuracy = sum(row.held_out_accuracy for row in progress.metrics) / n
        return progress.step, progress.steps, f"loss {loss:.4f}  held-out accuracy {accuracy:.2%}"

    steps = train_runs(
        plan.task, plan.model, plan.recipe, seeds, runs=runs, device=torch.device(device)
    )
    rows = []
    for outcome in console.follow(steps, words, title="training", quiet=quiet):
        if outcome.warning:
            sys.stderr.write(f"warning: seed {outcome.seed} {outcome.warning}\n")
        params = outcome.run.params()
        rows.append(
            {
                "seed": outcome.seed,
                "steps": outcome.steps,
                "grokking_step": outcome.grokking_step,
                "accuracy": measure_accuracy(params, plan.model, plan.task).value,
                "held_out_accuracy": outcome.held_out_accuracy,
                "seconds": round(outcome.seconds, 2),
                "run": str(outcome.run.path),
            }
        )
    return rows


def _refuse_training_options(recipe: str | None, settings: list[str] | None, target: str) -> None:
    from workbench.errors import ConfigError

    if recipe or settings:
        raise ConfigError(
            f"--recipe and --set say how to train, but {target} is trained already; drop them, or "
            "name a task"
        )


def _state(run: Any) -> str:
    from workbench.session.opening import STOPPED

    if run.stopped == STOPPED:
        return "from a session"
    if run.config.seed is None:
        return "imported"
    if run.complete:
        return "complete"
    return f"incomplete{': ' + run.stopped if run.stopped else ', resumable'}"


def _generator() -> Any:
    import torch

    return torch.Generator().manual_seed(0)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def _complain(message: str, status: int) -> int:
    """One line on standard error."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    return status
