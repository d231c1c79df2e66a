"""Probes, measured beside scikit-learn on the same activations, in one run.

    OMP_NUM_THREADS=2 python -m tests.bench.probes             # the tables; --quick in a minute
    python -m tests.bench.probes --device cuda --json          # the same on a GPU, as data

The shape is that of addition mod 113: 12,769 inputs, width 128, 113 classes; activations are those
of random networks with one hidden layer. Two tables: (a) ridge probes of every site, of 8 label
sets, 5 penalties and 5 folds, with a held-out figure each: R², and then accuracy; (b) a binary
logistic probe of every site, to a relative gap of 1e-6 above the minimum. The two sides take turns,
so that the *ratio* survives a machine whose speed drifts. scikit-learn runs on some of the sites,
which cost it the same each; its time is scaled to all. Where it is not installed its side is left
out.
"""

import argparse
import importlib.util
import json
import os
import platform
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from probes.design import Design, Targets
from probes.few_passes import SAMPLE_ROWS
from probes.held_out import SquaredError, accuracy, squared_error
from probes.method import LinearFitted, make_targets
from probes.methods.logistic import Logistic
from probes.methods.ridge import Ridge
from tests.bench.measuring import divided, spread, synchronise, timed

P, WIDTH, HIDDEN = 113, 128, 256
ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)
N_FOLDS = 5
GAP = 1e-6
"""Relative gap above the minimum that every logistic probe is to reach."""


def main() -> None:
    """Print the tables, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sites", type=int, help="of ridge probes; 40, or 400 on a GPU")
    parser.add_argument("--logistic-sites", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each side")
    parser.add_argument("--quick", action="store_true", help="few sites and rounds")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    name = arguments.device
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    )
    sites = arguments.sites or (400 if device.type == "cuda" else 40)
    rounds, logistic_sites, few = arguments.rounds, arguments.logistic_sites, 4
    if arguments.quick:
        rounds, logistic_sites, few = 1, min(logistic_sites, 20), 2
        sites = min(sites, 8) if device.type == "cpu" else sites
    sklearn = importlib.util.find_spec("sklearn") is not None
    told: dict[str, Any] = {
        "machine": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": rounds,
        "sklearn": sklearn,
        "rates": rates(device),
    }
    few = few if sklearn else 0
    told["ridge"] = ridge_times(sites, few, rounds, device, told["rates"])
    told["logistic"] = [
        {"uneven": uneven}
        | logistic_times(activations(logistic_sites, device, uneven), few, rounds, told["rates"])
        for uneven in (False, True)
    ]
    print(json.dumps(told, default=vars) if arguments.json else tables(told))


# ---------------------------------------------------------------------- what is probed


def operands() -> tuple[Tensor, Tensor]:
    """a and b of every input."""
    numbers = torch.arange(P)
    return numbers.repeat_interleave(P), numbers.repeat(P)


def activations(n_sites: int, device: torch.device, uneven: bool = False) -> Tensor:
    """`[site, n, d]`, float32: W relu(E a + F b) for random E, F, W.

    `uneven`: the variance of unit i is divided by i, as variances of networks often fall.
    """
    a, b = (side.to(device) for side in operands())
    generator = torch.Generator().manual_seed(0)
    x = torch.empty(n_sites, P * P, WIDTH, device=device)
    for site in range(n_sites):
        embed = torch.randn(2, P, HIDDEN, generator=generator).to(device)
        out = torch.randn(HIDDEN, WIDTH, generator=generator).to(device) / HIDDEN**0.5
        if uneven:
            out /= torch.arange(1, WIDTH + 1, device=device) ** 0.5
        torch.mm((embed[0, a] + embed[1, b]).relu(), out, out=x[site])
    return x


def label_sets(device: torch.device) -> Targets:
    """Eight variables of the task, with 113 values each."""
    a, b = operands()
    sets = (a, b, a + b, a - b, a * b, a * a, 2 * a + b, a * a + b)
    return make_targets(torch.stack(sets).to(device) % P, torch.arange(P, device=device))


def folds(device: torch.device) -> Tensor:
    """Which fold each input is held out in."""
    order = torch.randperm(P * P, generator=torch.Generator().manual_seed(1))
    return (order % N_FOLDS).to(device)


# ---------------------------------------------------------------------- (a)


def ridge_times(
    n_sites: int, few: int, rounds: int, device: torch.device, rate: dict[str, float]
) -> dict[str, Any]:
    """Every (site, label set, penalty, fold); scikit-learn fits the first `few` sites."""
    x, targets, fold = activations(n_sites, device), label_sets(device), folds(device)
    held = torch.stack([fold == i for i in range(N_FOLDS)])

    def fit() -> tuple[LinearFitted, SquaredError]:
        design = Design(x, torch.cat([~held, held]).to(x))
        fitted = Ridge().fit_many(design.part(slice(0, N_FOLDS)), targets, ALPHAS)
        return fitted, squared_error(fitted, targets, design.part(slice(N_FOLDS, None)))

    theirs = _ridge_sklearn(x[:few], targets, fold) if few else None
    mode = theirs("r2", None)[2] if theirs is not None else ""
    fit()
    rows: dict[str, list[float]] = {"r2": [], "right": [], "their_r2": [], "their_right": []}
    for _ in range(rounds):
        seconds, (fitted, error) = timed(fit, device)
        more, right = timed(partial(accuracy, fitted, targets, x, held), device)
        rows["r2"].append(seconds)
        rows["right"].append(seconds + more)
        if theirs is not None:
            seconds, sites, _ = theirs("r2", mode)
            rows["their_r2"].append(seconds * n_sites / few)
            again, rights, _ = theirs("accuracy", mode)
            rows["their_right"].append(again * n_sites / few)
    floor = _ridge_floor(n_sites, rate)
    scores = n_sites * 2 * len(ALPHAS) * P * P * WIDTH * 8 * P  # of every input, once a penalty
    told: dict[str, Any] = {
        "sites": n_sites,
        "probes": n_sites * len(targets.names) * len(ALPHAS) * N_FOLDS,
        "r2_seconds": spread(rows["r2"]),
        "accuracy_seconds": spread(rows["right"]),
        "floor_seconds": floor,
        "share_of_floor": spread([sum(floor.values()) / t for t in rows["r2"]]),
        "accuracy_floor_seconds": sum(floor.values()) + scores / rate["solve"],
    }
    if theirs is not None:
        told |= {
            "sklearn_sites": few,
            "sklearn_mode": mode,
            "sklearn_r2_seconds": spread(rows["their_r2"]),
            "sklearn_accuracy_seconds": spread(rows["their_right"]),
            "r2_times_faster": spread(divided(rows["their_r2"], rows["r2"])),
            "accuracy_times_faster": spread(divided(rows["their_right"], rows["right"])),
        } | _ridge_differences(fitted, error.r2(), right, sites, rights)
    return told


def _ridge_sklearn(x: Tensor, targets: Targets, fold: Tensor) -> Callable[..., Any]:
    """Runs it: seconds, sites and mode. Without a mode it tries both and takes the faster."""
    from tests.bench import probes_sklearn as side

    threads = torch.get_num_threads()
    given = (x.cpu().numpy(), targets.classes.cpu().numpy(), P, fold.cpu().numpy(), ALPHAS)

    def run(figure: str, only: Any) -> Any:
        modes = (only,) if only else side.MODES
        tried = [(*side.ridge_sites(*given, figure, mode, threads), mode) for mode in modes]
        return min(tried, key=lambda made: made[0])

    return run


def _ridge_differences(
    fitted: LinearFitted, r2: Tensor, right: Tensor, sites: list[Any], rights: list[Any]
) -> dict[str, float]:
    """Largest differences from scikit-learn, coefficients relative to the largest of the probe."""
    found = {"coef_difference": 0.0, "r2_difference": 0.0, "accuracy_difference": 0.0}
    for i, (one, other) in enumerate(zip(sites, rights, strict=True)):
        coef = fitted.coef[:, :, i].flatten(2, 3).cpu()
        off = (coef - torch.from_numpy(one.coef)).abs().amax((2, 3)) / coef.abs().amax((2, 3))
        differences = (
            off,
            (r2[:, :, i].cpu() - torch.from_numpy(one.figure)).abs(),
            (right[:, :, i].cpu() - torch.from_numpy(other.figure)).abs(),
        )
        for name, values in zip(found, differences, strict=True):
            found[name] = max(found[name], float(values.max()))
    return found


def _ridge_floor(n_sites: int, rate: dict[str, float]) -> dict[str, float]:
    """Seconds of the arithmetic, and of memory, that a fit and its R² cannot do without.

    Gram matrices; one product of every coefficient with a d x d matrix to solve, and one for R².
    The activations are read once, and coefficients written once.
    """
    n, columns, fits = P * P, 8 * P, len(ALPHAS) * N_FOLDS
    flop = n_sites * (2 * n * WIDTH**2 + 2 * fits * 2 * WIDTH**2 * columns)
    moved = 4 * n_sites * (n * WIDTH + fits * columns * WIDTH)
    return {"arithmetic": flop / rate["solve"], "memory": moved / rate["stream"]}


# ---------------------------------------------------------------------- (b)


def logistic_times(x: Tensor, few: int, rounds: int, rate: dict[str, float]) -> dict[str, Any]:
    """Whether a + b carries, C = 1; scikit-learn fits the first `few` sites."""
    n_sites, device = len(x), x.device
    a, b = operands()
    targets = make_targets((a + b >= P)[None].long().to(device), torch.arange(2, device=device))
    weights = torch.ones(1, P * P, device=device)

    def fit() -> LinearFitted:
        return Logistic(tolerance=GAP).fit_many(Design(x, weights), targets, [1.0])

    fitted = fit()
    theirs = _logistic_sklearn(x[:few], targets) if few else {}
    seconds: list[float] = []
    rows: dict[str, list[float]] = {solver: [] for solver in theirs}
    for _ in range(rounds):
        seconds.append(timed(fit, device)[0])
        for solver, (run, _) in theirs.items():
            rows[solver].append(run()[0] * n_sites / few)
    steps = float(fitted.convergence.iterations.float().mean())
    floor = _logistic_floor(n_sites, steps, rate)
    told: dict[str, Any] = {
        "sites": n_sites,
        "steps": steps,
        "converged": float(fitted.convergence.converged.float().mean()),
        "ms_per_site": spread([t * 1e3 / n_sites for t in seconds]),
        "floor_ms_per_site": {name: t * 1e3 / n_sites for name, t in floor.items()},
        "share_of_floor": spread([sum(floor.values()) / t for t in seconds]),
        "sklearn": {},
    }
    if few:
        told["gap"] = _our_gap(fitted, x[:few], targets)
    for solver, (_, about) in theirs.items():
        told["sklearn"][solver] = about | {
            "sites": few,
            "ms_per_site": spread([t * 1e3 / n_sites for t in rows[solver]]),
            "times_faster": spread(divided(rows[solver], seconds)),
        }
    return told


def _logistic_sklearn(x: Tensor, targets: Targets) -> dict[str, Any]:
    """Its default solver and its best: what runs it in the faster mode, and how it is set."""
    from tests.bench import probes_sklearn as side

    threads = torch.get_num_threads()
    arrays = x.cpu().numpy(), targets.classes[0].cpu().numpy()
    best = side.best_objectives(*arrays)
    made: dict[str, Any] = {}
    for solver in ("lbfgs", "newton-cholesky"):
        tolerance, gap = side.loosest_tolerance(*arrays, solver, best, GAP)
        tried = [
            (side.logistic_sites(*arrays, solver, tolerance, mode, threads)[0], mode)
            for mode in side.MODES
        ]
        about = {"tolerance": tolerance, "gap": gap, "mode": min(tried)[1]}
        run = partial(side.logistic_sites, *arrays, solver, tolerance, min(tried)[1], threads)
        made[solver] = (run, about)
    return made


def _our_gap(fitted: LinearFitted, x: Tensor, targets: Targets) -> float:
    from tests.bench import probes_sklearn as side

    coef, intercept = fitted.coef[0, 0, :, 0, 1].cpu(), fitted.intercept[0, 0, :, 0, 1].cpu()
    lines = [side.Line(c.numpy(), float(i)) for c, i in zip(coef, intercept, strict=True)]
    return side.largest_gap(x.cpu().numpy(), targets.classes[0].cpu().numpy(), lines[: len(x)])


def _logistic_floor(n_sites: int, steps: float, rate: dict[str, float]) -> dict[str, float]:
    """Seconds of the steps that were taken, of the sample's Gram matrix, and of memory.

    A step is two products of the activations with a vector, and one more is at the start; the
    activations are read from memory once.
    """
    n, v = P * P, WIDTH + 1
    products = (2 * steps + 1) * 2 * n * v
    gram = SAMPLE_ROWS * v * v * (v + 1)  # symmetric: half of the products
    return {
        "steps": n_sites * products / rate["vector"],
        "gram": n_sites * gram / rate["gram"],
        "memory": n_sites * 4 * n * WIDTH / rate["stream"],
    }


# ---------------------------------------------------------------------- the machine


def rates(device: torch.device) -> dict[str, float]:
    """Operations per second of products of these shapes, and bytes per second from memory."""
    batch = 64 if device.type == "cuda" else 1
    x = torch.randn(batch, P * P, WIDTH, device=device)
    rows = torch.randn(batch, 8 * P, WIDTH, device=device)
    square, vector = torch.randn(batch, WIDTH, WIDTH, device=device), x[:, :1].clone()
    much = torch.randn(2**26, device=device)  # 256 MiB
    sample = x[:, : SAMPLE_ROWS * WIDTH]
    return {
        "solve": 2 * rows.numel() * WIDTH / _fastest(lambda: rows @ square, device),
        "gram": 2 * sample.numel() * WIDTH / _fastest(lambda: sample.mT @ sample, device),
        "vector": 2 * x.numel() / _fastest(lambda: vector @ x.mT, device),
        "stream": 4 * much.numel() / _fastest(lambda: much.sum(), device),
    }


def _fastest(step: Callable[[], Any], device: torch.device) -> float:
    step()
    synchronise(device)
    return min(timed(step, device)[0] for _ in range(20))


# ---------------------------------------------------------------------- what a person reads


def tables(told: dict[str, Any]) -> str:
    """Both, and the machine's limits."""
    rate = told["rates"]
    lines = [
        f"{told['machine']}, {told['threads']} threads, torch {told['torch']}; median of "
        f"{told['rounds']} (middle 80 %)",
        f"products with a matrix {rate['solve'] / 1e9:.0f} and {rate['gram'] / 1e9:.0f}, with a "
        f"vector {rate['vector'] / 1e9:.0f} GFLOP/s; from memory {rate['stream'] / 1e9:.1f} GB/s",
    ]
    if not told["sklearn"]:
        lines += ["", "scikit-learn IS NOT INSTALLED HERE: its side is LEFT OUT, no ratios"]
    row = told["ridge"]
    lines += [
        "",
        f"ridge, {row['probes']} probes: {row['sites']} sites x 8 label sets x {len(ALPHAS)} "
        f"penalties x {N_FOLDS} folds",
        f"  ours, with R²          {row['r2_seconds'].words(' s', 2)}",
        f"  ours, with accuracy    {row['accuracy_seconds'].words(' s', 2)}",
        f"  limit of R²            {_parts(row['floor_seconds'], ' s', 3)}",
        f"  share of it reached    {row['share_of_floor'].words(digits=2)}",
        f"  limit of accuracy      {row['accuracy_floor_seconds']:.2f} s",
    ]
    if "sklearn_mode" in row:
        lines += [
            f"  scikit-learn, R²       {row['sklearn_r2_seconds'].words(' s')}, from "
            f"{row['sklearn_sites']} sites, threads: {row['sklearn_mode']}",
            f"  scikit-learn, accuracy {row['sklearn_accuracy_seconds'].words(' s')}",
            f"  times faster, R²       {row['r2_times_faster'].words()}",
            f"  times faster, accuracy {row['accuracy_times_faster'].words()}",
            f"  max |difference|       coefficients {row['coef_difference']:.1e} of the largest, "
            f"R² {row['r2_difference']:.1e}, accuracy {row['accuracy_difference']:.1e}",
        ]
    for row in told["logistic"]:
        lines += _logistic_lines(row)
    return "\n".join(lines)


def _logistic_lines(row: dict[str, Any]) -> list[str]:
    reached = f", true gap {row['gap']:.1e}" if "gap" in row else ""
    kind = "variance of unit i / i" if row["uneven"] else "units of equal variance"
    lines = [
        "",
        f"binary logistic, {row['sites']} sites, {kind}, relative gap {GAP:.0e}",
        f"  ours                   {row['ms_per_site'].words(' ms')} a site, {row['steps']:.1f} "
        f"steps, {row['converged']:.0%} converged{reached}",
        f"  limit of these steps   {_parts(row['floor_ms_per_site'], ' ms', 2)}",
        f"  share of it reached    {row['share_of_floor'].words(digits=2)}",
    ]
    for solver, side in row["sklearn"].items():
        lines += [
            f"  {solver:<22} {side['ms_per_site'].words(' ms')} a site, from {side['sites']}; tol "
            f"{side['tolerance']:g}, gap {side['gap']:.1e}, threads: {side['mode']}",
            f"  times faster           {side['times_faster'].words()}"
            + ("" if side["gap"] <= GAP else ", though it DID NOT REACH THE GAP"),
        ]
    return lines


def _parts(floor: dict[str, float], unit: str, digits: int) -> str:
    parts = ", ".join(f"{name} {value:.{digits}f}" for name, value in floor.items())
    return f"{sum(floor.values()):.{digits}f}{unit} ({parts})"


if __name__ == "__main__":
    main()
