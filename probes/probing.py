"""Probing one network: every variable at every site, beside its controls, and erased.

    report = finish(probe_network(subject, ProbeSpec(variables=("carry_2",))))
    for line in summarise(report.rows): ...

Sites of one width are probed together: all hooks, positions, heads, splits, controls and strengths,
as far as memory goes. Each comes out as if alone. Batches make a hook a shard (`probe_hook`).
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probes import tables
from probes.align import Alignment, fit_das
from probes.asked import asked_inputs
from probes.causal import erase_and_ask
from probes.codelength import online_code
from probes.controls import control_task, norm_matched, random_subspace
from probes.design import Design, Targets
from probes.draws import generator_of
from probes.measure import Measured, measure
from probes.method import make_targets, methods
from probes.methods.fourier import FourierFitted
from probes.rows import Row
from probes.setting import Setting, deciding_tokens, make_setting
from probes.sites import ProbeSite, make_sites, read_activations, residual_hooks, width_of
from probes.spec import ProbeSpec
from probes.splits import Splits
from workbench.progress import Progress, part
from workbench.subject import Subject, untrained
from workbench.task import Inputs

TWINS = 1_000_000
"""Seeds of untrained twins start here, away from those that networks are trained from."""
CHUNK_BYTES = 512 * 2**20
"""Bytes of activations and coefficients that the sites fitted together may take."""
ALIVE = 4
"""Copies of the activations that are alive together when no control's are kept."""
GRAIN = 8
"""Roundings that an activation may have gone through."""
SPACES = ("untrained", "random_subspace", "norm_matched")
"""Controls with other activations; the others have other labels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbeReport:
    """What was measured."""

    rows: list[Row]
    weights: dict[str, Tensor]
    """What the probes of each variable learned, by `hook.variable.probe.tensor`; axes
    `strength split site ...`, sites in the order of `make_sites`."""
    alignments: tuple[Alignment, ...] = ()
    """Subspaces that were searched for, the sites of one hook each."""


def probe_network(
    subject: Subject, spec: ProbeSpec, *, network_train: Inputs | None = None
) -> Generator[Progress, None, ProbeReport]:
    """Probe every hook of the spec.

    Args:
        network_train: the inputs that the network was trained on, for the split "network".

    Raises `UnknownName`, `HookError` or `ProbeError` for what this network or task does not have.
    """
    hooks = hooks_of(subject, spec)
    setting = make_setting(subject, spec, network_train=network_train)
    return (yield from _probe_hooks(setting, hooks))


def hooks_of(subject: Subject, spec: ProbeSpec) -> list[str]:
    """The hooks that a spec names, checked. Raises `HookError`."""
    hooks = residual_hooks(subject.config) if spec.hooks is None else spec.hooks
    make_sites(subject.config, hooks=hooks, positions=spec.positions, n_pos=subject.task.n_ctx)
    return list(dict.fromkeys(hooks))


def probe_hook(setting: Setting, hook: str) -> Generator[Progress, None, ProbeReport]:
    """Probe every position and head of one hook. Raises `HookError` or `ProbeError`."""
    return (yield from _probe_hooks(setting, [hook]))


def _probe_hooks(setting: Setting, hooks: Sequence[str]) -> Generator[Progress, None, ProbeReport]:
    chunks = _chunks(setting, hooks)
    rows: list[Row] = []
    weights: dict[str, list[Tensor]] = {}
    alignments: list[Alignment] = []
    for i, chunk in enumerate(chunks):
        report = yield from part(_Batch(setting, chunk).run(), i, len(chunks))
        rows += report.rows
        alignments += report.alignments
        for name, tensor in report.weights.items():
            weights.setdefault(name, []).append(tensor)
    return ProbeReport(
        rows=sorted(rows, key=lambda row: hooks.index(row.hook)),
        weights={name: torch.cat(parts, 2) for name, parts in weights.items()},
        alignments=tuple(alignments),
    )


def _chunks(setting: Setting, hooks: Sequence[str]) -> list[list[ProbeSite]]:
    """Sites of one width that fit in memory together; a hook is split only where it does not."""
    spec, subject = setting.spec, setting.subject
    chunks: list[list[ProbeSite]] = []
    width, room = 0, 0
    for hook in hooks:
        sites = make_sites(
            subject.config, hooks=[hook], positions=spec.positions, n_pos=subject.task.n_ctx
        )
        if width_of(subject.config, hook) != width or len(sites) > room:
            width = width_of(subject.config, hook)
            most = max(1, CHUNK_BYTES // _bytes_of_a_site(setting, width))
            chunks += [sites[start : start + most] for start in range(0, len(sites), most)]
            room = most - len(chunks[-1])
        else:
            chunks[-1] += sites
            room -= len(sites)
    return chunks


def _bytes_of_a_site(setting: Setting, width: int) -> int:
    spec, n = setting.spec, len(setting.examples.inputs)
    grid = max(len(spec.grid(name, width)) for name in spec.probes)
    classes = max(t.n_classes * len(t.names) for t in setting.targets.values())
    kept = (len(SPACES) - 1 + spec.n_untrained) if _keeps_spaces(setting) else 0
    floats = width * ((ALIVE + kept) * n + (grid + 2) * len(setting.splits.names) * classes)
    return floats * (4 if spec.dtype == "float32" else 8)


def _keeps_spaces(setting: Setting) -> bool:
    """Whether the activations of controls are used again, by another variable or probe."""
    return len(setting.targets) * len(setting.spec.probes) > 1


class _Batch:
    """Sites of one width, probed together."""

    def __init__(self, setting: Setting, sites: list[ProbeSite]) -> None:
        self.setting, self.sites = setting, sites
        self.spec = setting.spec
        self.hooks = list(dict.fromkeys(site.hook for site in sites))
        self.x = self._read(setting.subject)
        self.spaces: dict[tuple[str, int], Design] = {}

    def run(self) -> Generator[Progress, None, ProbeReport]:
        controls = [control for control in SPACES if control in self.spec.controls]
        each = (
            len(self.spec.probes) * (1 + len(controls))
            + self.spec.erase
            + bool(self.spec.align_ranks)
        )
        total, done = len(self.setting.targets) * each, 0
        hook = self.hooks[0] if len(self.hooks) == 1 else f"{len(self.sites)} sites"
        rows: list[Row] = []
        weights: dict[str, Tensor] = {}
        alignments: list[Alignment] = []
        design = self._design(self.x)
        for variable, targets in self.setting.targets.items():
            rows += tables.majority_rows(self.setting, self.sites, variable)
            for name in self.spec.probes:
                yield Progress(done, total, f"{variable} at {hook}: {name}")
                measured = self._measure(name, design, targets, self.setting.splits, test=True)
                rows += tables.probe_rows(self.setting, self.sites, variable, name, measured)
                weights |= self._weights(f"{variable}.{name}", measured)
                rows += self._frequencies(variable, name, measured, targets)
                rows += self._codelengths(variable, name, targets)
                done += 1
            for control in controls:
                for name in self.spec.probes:
                    yield Progress(done, total, f"{variable} at {hook}: {name}, {control}")
                    rows += self._controls(variable, name, control, targets)
                    done += 1
            if self.spec.erase:
                yield Progress(done, total, f"{variable} at {hook}: erased")
                rows += self._erasures(variable, targets)
                done += 1
            if self.spec.align_ranks:
                yield Progress(done, total, f"{variable} at {hook}: aligned")
                for hook_of in self.hooks:
                    found = yield from self._alignment(variable, hook_of, done, total)
                    rows += tables.alignment_rows(found.sites, variable, found)
                    alignments.append(found)
                done += 1
        return ProbeReport(rows=rows, weights=weights, alignments=tuple(alignments))

    def _weights(self, name: str, measured: Measured) -> dict[str, Tensor]:
        """What the probes of the variable learned, hook by hook."""
        found = {}
        for hook in self.hooks:
            here = [i for i, site in enumerate(self.sites) if site.hook == hook]
            for key, tensor in measured.fitted.tensors().items():
                found[f"{hook}.{name}.{key}"] = tensor[:, :, here, 0].contiguous()
        return found

    def _read(self, subject: Subject) -> Float[Tensor, "site n d"]:
        tokens = self.setting.examples.tokens.to(subject.device)
        dtype = getattr(torch, self.spec.dtype)
        return read_activations(subject.params, tokens, subject.config, self.sites, dtype=dtype)

    def _design(self, x: Tensor) -> Design:
        return Design(x, self.setting.splits.train.to(x))

    def _controls(self, variable: str, name: str, control: str, targets: Targets) -> list[Row]:
        """The variable in other activations; untrained twins in the first split of each kind."""
        first = _first(targets)
        if control != "untrained":
            other = self._space(control, targets.n_classes)
            measured = self._measure(name, other, first, self.setting.splits)
            return tables.control_rows(self.setting, self.sites, variable, name, control, measured)
        splits = self.setting.splits.some([kind.start for kind in self.setting.kinds().values()])
        rows: list[Row] = []
        for draw in range(self.spec.n_untrained):
            measured = self._measure(name, self._twin(draw, splits), first, splits)
            rows += tables.untrained_rows(
                self.setting, self.sites, variable, name, draw, measured.accuracy()[:, :, 0]
            )
        return rows

    def _twin(self, draw: int, splits: Splits) -> Design:
        """Activations of an untrained network of the same shape."""
        key = ("untrained", draw)
        if key in self.spaces:
            return self.spaces[key]
        x = self._read(untrained(self.setting.subject, TWINS + self.spec.seeds[0] + draw))
        return self._kept(key, Design(x, splits.train.to(x)))

    def _kept(self, key: tuple[str, int], made: Design) -> Design:
        if _keeps_spaces(self.setting):
            self.spaces[key] = made
        return made

    def _exact_design(self) -> Design:
        """The first split in float64: in float32, directions that a trained network has made small
        would pass for rounding. What is rounding is known from what it was computed in."""
        computed_in = self.setting.subject.params["embed.W_E"].dtype
        grain = GRAIN * max(torch.finfo(dtype).eps for dtype in (computed_in, self.x.dtype))
        x = self.x.double()
        return Design(x, self.setting.splits.train[:1].to(x), grain=grain)

    def _space(self, control: str, n_classes: int) -> Design:
        """Activations of a control; a random subspace has a direction per class, less one."""
        rank = min(n_classes - 1, self.x.shape[-1])
        key = (control, rank if control == "random_subspace" else 0)
        if key in self.spaces:
            return self.spaces[key]
        parts = [self._drawn(*key, i) for i in range(len(self.sites))]
        return self._kept(key, self._design(torch.cat(parts)))

    def _drawn(self, control: str, rank: int, i: int) -> Float[Tensor, "1 n d"]:
        """A site's own draw, whatever sites are probed beside it."""
        x, generator = self.x[i : i + 1], generator_of(control, self.sites[i], rank)
        if control == "random_subspace":
            return random_subspace(x, rank, generator)
        return norm_matched(x, generator)

    def _measure(
        self, name: str, design: Design, targets: Targets, splits: Splits, *, test: bool = False
    ) -> Measured:
        kind, width = methods.get(name), self.x.shape[-1]
        strengths = [s for s in self.spec.grid(name, width) if test or kind.fits(s, design.width)]
        return measure(
            kind(),
            strengths or [float(design.width)],
            design,
            _moved(targets, design.x.device),
            splits,
            seed=self.spec.seeds[0],
            n_permutations=self.spec.n_permutations if test else None,
        )

    def _frequencies(
        self, variable: str, name: str, measured: Measured, targets: Targets
    ) -> list[Row]:
        if not isinstance(measured.fitted, FourierFitted):
            return []
        held_out = Design(self.x, self.setting.splits.held_out.to(self.x))
        moved = _moved(targets, self.x.device)
        return tables.frequency_rows(
            self.setting, self.sites, variable, name, measured, held_out, moved
        )

    def _codelengths(self, variable: str, name: str, targets: Targets) -> list[Row]:
        if not self.spec.codelength or not methods.get(name).probabilistic:
            return []
        code = online_code(
            methods.get(name)(),
            self.x,
            _moved(targets, self.x.device),
            groups=self.setting.splits.groups,
            seed=self.spec.seeds[0],
            strengths=self.spec.grid(name, self.x.shape[-1]),
        )
        return tables.codelength_rows(self.setting, self.sites, variable, name, code)

    def _alignment(
        self, variable: str, hook: str, done: int, total: int
    ) -> Generator[Progress, None, Alignment]:
        """Hook by hook: random subspaces are drawn site after site."""
        subject, spec = self.setting.subject, self.spec
        steps = fit_das(
            subject.params,
            subject.config,
            subject.task,
            variable,
            [site for site in self.sites if site.hook == hook],
            spec.align_ranks,
            spec.seeds,
            untrained=untrained(subject, spec.seeds[0]).params,
            steps=spec.align_steps,
            seed=spec.seeds[0],
        )
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                found: Alignment = end.value
                return found
            yield Progress(done, total, f"{variable}: {progress.doing}")

    def _erasures(self, variable: str, targets: Targets) -> list[Row]:
        """Erasers are fitted on what trains in the first split; its held-out inputs are asked."""
        setting, spec = self.setting, self.spec
        asked = asked_inputs(setting.splits.held_out[0], spec.n_asked, "asked")
        classes = targets.classes[0].cpu()
        deciding = deciding_tokens(setting.subject.task, setting.examples, variable)
        same_tokens = [
            control_task(deciding, classes, generator_of("erased control", variable, draw))
            for draw in range(spec.n_random_erasures)
        ]
        controls = make_targets(torch.stack(same_tokens), targets.values)
        erased = erase_and_ask(
            self.setting.subject,
            self.sites,
            self._exact_design(),
            _moved(targets, self.x.device),
            self.setting.examples.inputs[asked],
            eraser=spec.eraser,
            n_random=spec.n_random_erasures,
            controls=_moved(controls, self.x.device),
            generator=generator_of("erase", variable),
        )
        return tables.erasure_rows(self.setting, self.sites, variable, asked, erased)


def _first(targets: Targets) -> Targets:
    """The variable without its label controls."""
    return Targets(names=targets.names[:1], classes=targets.classes[:1], values=targets.values)


def _moved(targets: Targets, device: torch.device) -> Targets:
    return Targets(
        names=targets.names,
        classes=targets.classes.to(device),
        values=targets.values.to(device),
    )
