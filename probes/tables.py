"""From what was measured to rows; see `probes.rows` for what a row says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.align import Alignment
from probes.causal import Erased
from probes.codelength import Codelength
from probes.design import Design, Targets
from probes.draws import generator_of
from probes.measure import Measured
from probes.methods.fourier import FourierFitted, frequency_r2
from probes.rows import NONE, Row
from probes.setting import Setting
from probes.sites import ProbeSite
from probes.statistics import Accuracy, measure_accuracy

LABEL_CONTROLS = ("control_task", "shuffled")


def probe_rows(
    setting: Setting, sites: Sequence[ProbeSite], variable: str, probe: str, measured: Measured
) -> list[Row]:
    """Accuracy of the variable's probes, one by one and pooled, and on its label controls."""
    pooled = _pooled(setting, variable, probe, measured)
    rows = _single_rows(setting, sites, variable, probe, measured)
    rows += _pooled_rows(setting, sites, variable, probe, measured, pooled)
    accuracy = measured.accuracy()
    names = setting.targets[variable].names
    for control in LABEL_CONTROLS:
        draws = [label for label, name in enumerate(names) if name == control and label]
        for draw, label in enumerate(draws):
            ends = {
                kind: (found.low[:, label], found.high[:, label]) for kind, found in pooled.items()
            }
            rows += _means(
                *(setting, sites, variable, probe, control, accuracy[:, :, label]),
                draw=draw,
                ends=ends,
            )
    return rows


def frequency_rows(
    setting: Setting,
    sites: Sequence[ProbeSite],
    variable: str,
    probe: str,
    measured: Measured,
    held_out: Design,
    targets: Targets,
) -> list[Row]:
    """Held-out R^2 of every frequency's circle, of the variable and (means) its label controls.

    Args:
        held_out: the design with the held-out inputs' weights.
    """
    fitted = measured.fitted
    assert isinstance(fitted, FourierFitted)
    r2 = frequency_r2(fitted, held_out, targets)
    at = measured.chosen[None, ..., None].expand(1, *r2.shape[1:])
    chosen = r2.gather(0, at)[0]
    rows = []
    for control in (NONE, *LABEL_CONTROLS):
        labels = [
            label
            for label, name in enumerate(targets.names)
            if (label == 0 if control == NONE else label and name == control)
        ]
        if not labels:
            continue
        mean = chosen[:, :, labels].mean(2)
        for index, frequency in enumerate(fitted.frequencies):
            found = _means(setting, sites, variable, probe, control, mean[:, :, index])
            metric = f"r2_frequency_{frequency}"
            rows += [replace(row, metric=metric) for row in found if math.isfinite(row.value)]
    return rows


def control_rows(
    setting: Setting,
    sites: Sequence[ProbeSite],
    variable: str,
    probe: str,
    control: str,
    measured: Measured,
) -> list[Row]:
    """Accuracy of the variable's probes on the activations of a control."""
    pooled = _pooled(setting, variable, probe, measured)
    ends = {kind: (found.low[:, 0], found.high[:, 0]) for kind, found in pooled.items()}
    accuracy = measured.accuracy()[:, :, 0]
    return _means(setting, sites, variable, probe, control, accuracy, ends=ends)


def untrained_rows(
    setting: Setting,
    sites: Sequence[ProbeSite],
    variable: str,
    probe: str,
    draw: int,
    accuracy: Float[Tensor, "kind site"],
) -> list[Row]:
    """Accuracy in an untrained network, in the first split of each kind."""
    rows = []
    for i, (kind, which) in enumerate(setting.kinds().items()):
        n = int(setting.splits.held_out[which.start].sum())
        for site, value in zip(sites, accuracy[i].tolist(), strict=True):
            place = _place(site, variable, probe, kind)
            rows.append(
                Row(**place, control="untrained", draw=draw, metric="accuracy", value=value, n=n)
            )
    return rows


def majority_rows(setting: Setting, sites: Sequence[ProbeSite], variable: str) -> list[Row]:
    """Accuracy of always naming the commonest training class: what no information gives."""
    targets, splits = setting.targets[variable], setting.splits
    classes = targets.classes[0]
    accuracy = torch.stack(
        [
            (classes[held_out] == classes[train].mode().values).double().mean()
            for train, held_out in zip(splits.train, splits.held_out, strict=True)
        ]
    )
    every = accuracy[:, None].expand(-1, len(sites))
    return _means(setting, sites, variable, None, "majority", every)


def codelength_rows(
    setting: Setting, sites: Sequence[ProbeSite], variable: str, probe: str, code: Codelength
) -> list[Row]:
    """Bits of the variable's labels and of its label controls', beside the uniform code's."""
    rows = []
    names = setting.targets[variable].names
    seen: dict[str, int] = {}
    n = len(setting.examples.inputs)
    for label, name in enumerate(names):
        control = NONE if label == 0 else name
        draw = seen.get(control, 0)
        seen[control] = draw + 1
        for i, site in enumerate(sites):
            rows.append(
                Row(
                    **_place(site, variable, probe, "online"),
                    control=control,
                    draw=draw if label else None,
                    metric="bits",
                    value=float(code.bits[i, label]),
                    n=n,
                    strength=float(code.strength[i, label]),
                )
            )
    for site in sites:
        rows.append(
            Row(
                **_place(site, variable, probe, "online"),
                control="uniform",
                metric="bits",
                value=code.uniform_bits,
                n=n,
            )
        )
    return rows


def erasure_rows(
    setting: Setting,
    sites: Sequence[ProbeSite],
    variable: str,
    asked: Int[Tensor, " asked"],
    erased: Erased,
) -> list[Row]:
    """Answer accuracy of the network: intact, erased, and with random directions erased."""
    groups = setting.splits.groups[asked]
    generator = generator_of("erasure interval", variable)
    intact = measure_accuracy(erased.intact.double()[None], groups, generator)
    made = measure_accuracy(erased.erased.double(), groups, generator)
    rows = []
    for i, site in enumerate(sites):
        shared: dict[str, Any] = {
            **_place(site, variable, None, setting.splits.names[0]),
            "metric": "answer_accuracy",
            "n": len(asked),
            "n_train": int(setting.splits.train[0].sum()),
        }
        ends: dict[str, Any] = {"low": float(intact.low[0]), "high": float(intact.high[0])}
        rows.append(Row(**shared, control=NONE, value=float(intact.value[0]), **ends))
        ends = {"low": float(made.low[i]), "high": float(made.high[i])}
        rank = int(erased.rank[i])
        rows.append(Row(**shared, control="erased", value=float(made.value[i]), **ends, rank=rank))
        for control, draws in (
            ("random_erased", erased.random),
            ("control_erased", erased.control),
        ):
            for draw, right in enumerate(draws[i].double().mean(-1).tolist()):
                rows.append(Row(**shared, control=control, draw=draw, value=right, rank=rank))
    return rows


def alignment_rows(sites: Sequence[ProbeSite], variable: str, found: Alignment) -> list[Row]:
    """Interchange accuracy of every learned subspace, beside its controls."""
    controls = found.controls()
    rows = []
    for i, site in enumerate(sites):
        for j, rank in enumerate(found.ranks):
            for k, seed in enumerate(found.seeds):
                share = found.share(i, j, k)
                shared: dict[str, Any] = {
                    **_place(site, variable, None, f"interchange/{seed}"),
                    "metric": "interchange_accuracy",
                    "rank": rank,
                    "n": share.n,
                }
                low, high = share.interval
                rows.append(Row(**shared, control=NONE, value=share.value, low=low, high=high))
                for name, values in controls.items():
                    rows.append(Row(**shared, control=name, value=float(values[i, j, k])))
    return rows


# ---------------------------------------------------------------------- helpers


def _single_rows(
    setting: Setting, sites: Sequence[ProbeSite], variable: str, probe: str, measured: Measured
) -> list[Row]:
    """One row per strength, split and site."""
    fit = measured.convergence
    rows = []
    for split, name in enumerate(setting.splits.names):
        n, n_train = (int(side[split].sum()) for side in _sides(setting))
        for i, site in enumerate(sites):
            for s, strength in enumerate(measured.strengths):
                at = (s, split, i, 0)
                rows.append(
                    Row(
                        **_place(site, variable, probe, name),
                        control=NONE,
                        metric="accuracy",
                        value=float(measured.held_out[at]),
                        n=n,
                        n_train=n_train,
                        strength=strength,
                        chosen=int(measured.chosen[split, i, 0]) == s,
                        objective=float(fit.objective[at]),
                        gap=float(fit.gap[at]),
                        converged=bool(fit.converged[at]),
                    )
                )
    return rows


def _pooled(setting: Setting, variable: str, probe: str, measured: Measured) -> dict[str, Accuracy]:
    """By kind of split, accuracy of `[site, label]` with its interval: each input counts once, at
    its mean over the splits that held it out. All labels go through the same draws."""
    made = {}
    for kind, which in setting.kinds().items():
        times = setting.splits.held_out[which].sum(0)
        rows_held = times > 0
        right = measured.correct[which].sum(0).cpu()[:, :, rows_held]
        groups = setting.splits.groups[rows_held]
        generator = generator_of("interval", variable, probe, kind)
        made[kind] = measure_accuracy(right / times[rows_held].double(), groups, generator)
    return made


def _pooled_rows(
    setting: Setting,
    sites: Sequence[ProbeSite],
    variable: str,
    probe: str,
    measured: Measured,
    pooled: Mapping[str, Accuracy],
) -> list[Row]:
    """One row per kind of split and site. p is twice the mean over the splits, valid however they
    depend on each other (Vovk and Wang 2020, doi:10.1093/biomet/asaa027, section 4)."""
    rows = []
    for kind, which in setting.kinds().items():
        found = pooled[kind]
        several = len(setting.spec.seeds) > 1
        for i, site in enumerate(sites):
            p = None
            if measured.p is not None:
                p = float(measured.p[which, i].mean())
                p = min(1.0, 2 * p) if several else p
            rows.append(
                Row(
                    **_place(site, variable, probe, kind),
                    control=NONE,
                    metric="accuracy",
                    value=float(found.value[i, 0]),
                    low=float(found.low[i, 0]),
                    high=float(found.high[i, 0]),
                    p=p,
                    n=found.n,
                )
            )
    return rows


def _means(
    setting: Setting,
    sites: Sequence[ProbeSite],
    variable: str,
    probe: str | None,
    control: str,
    accuracy: Float[Tensor, "split site"],
    *,
    draw: int | None = None,
    ends: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> list[Row]:
    """One row per kind of split and site: the mean over its splits.

    Args:
        ends: by kind, of every site's interval, widened to hold the mean: inputs that several
            splits held out count once in the one and as often in the other.
    """
    rows = []
    for kind, which in setting.kinds().items():
        n = int((setting.splits.held_out[which].sum(0) > 0).sum())
        for i, (site, value) in enumerate(
            zip(sites, accuracy[which].mean(0).tolist(), strict=True)
        ):
            low, high = (None, None) if ends is None else (float(end[i]) for end in ends[kind])
            rows.append(
                Row(
                    **_place(site, variable, probe, kind),
                    control=control,
                    draw=draw,
                    metric="accuracy",
                    value=value,
                    low=None if low is None else min(low, value),
                    high=None if high is None else max(high, value),
                    n=n,
                )
            )
    return rows


def _place(site: ProbeSite, variable: str, probe: str | None, split: str) -> dict[str, Any]:
    return {
        "hook": site.hook,
        "position": site.position,
        "head": site.head,
        "variable": variable,
        "probe": probe,
        "split": split,
    }


def _sides(setting: Setting) -> tuple[Tensor, Tensor]:
    return setting.splits.held_out, setting.splits.train
