"""A kind of probe: one file in `probes/methods/`, fitted for many sites and label sets together.

Two faces. `fit_many(design, targets, strengths)` fits one probe for every (strength, split, site,
label set) at once, from what the `Design` shares; sweeps use it. `fit(X, y)`, `predict`, `score`,
`coef_` are scikit-learn's: X is `[n, d]`, or `[site, n, d]` for many sites; y is `[n]`, or
`[label, n]` for many label sets, and fitted attributes get the same leading axes.

    probe = methods.get("ridge")(alpha=1.0).fit(X, y)
    probe.score(X_test, y_test)
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.design import Design, Targets
from workbench.errors import ProbeError
from workbench.registry import Registry

P = TypeVar("P", bound="Probe")

SCORE_BYTES = 256 * 2**20
"""Bytes of scores that are alive together."""
BLOCK_BYTES = 2**20
"""Bytes of scores made at a time on a CPU, so that its cache holds them until they are read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convergence:
    """How well each probe was fitted, `[strength, split, site, label]`."""

    objective: Float[Tensor, "strength split site label"]
    """What was minimised, in the method's own units (see its docstring)."""
    gap: Float[Tensor, "strength split site label"]
    """Bound or estimate of how far above its minimum that is; 0 for a closed form."""
    converged: Bool[Tensor, "strength split site label"]
    iterations: Int[Tensor, "strength split site label"]


class Repeats(NamedTuple):
    """Inputs that share their activation at a site."""

    rows: Int[Tensor, " u"]
    """One input for each activation that there is."""
    of: Int[Tensor, " m"]
    """Which of these activations each input has."""


class Asked(NamedTuple):
    """What probes are asked about."""

    x: Float[Tensor, "site m d"]
    repeats: Sequence[Repeats | None]
    """Of each site; None where most inputs have an activation of their own."""


class Fitted(ABC):
    """Probes fitted together, one per (strength, split, site, label set)."""

    strengths: tuple[float, ...]
    convergence: Convergence

    @abstractmethod
    def scores(
        self,
        x: Float[Tensor, "site m d"],
        *,
        strength: int,
        split: int,
        labels: slice = slice(None),
    ) -> Float[Tensor, "site label m k"]:
        """Score of every class for activations of the same sites; the largest is the prediction.

        Where `Probe.probabilistic`, they are log-probabilities up to a constant per input.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What the probes learned, for safetensors; axes `strength split site label ...`."""

    def correct(
        self,
        asked: Asked,
        classes: Int[Tensor, "label m"],
        *,
        strengths: Int[Tensor, "site label"],
        split: int,
        first: int = 0,
    ) -> Bool[Tensor, "site label m"]:
        """Which inputs each probe gets right: of equal scores, the first class is predicted.

        Args:
            classes: of the label sets from `first` on.
            strengths: which probe of each site and label set, as an index.
        """
        right = torch.zeros(
            *strengths.shape, classes.shape[1], dtype=torch.bool, device=classes.device
        )
        k = max(int(classes.max()) + 1, 2) if classes.numel() else 2
        one = asked.x.element_size() * asked.x.shape[0] * max(asked.x.shape[1], 1) * k
        step = max(1, SCORE_BYTES // one)
        for start in range(0, len(classes), step):
            here = slice(start, min(start + step, len(classes)))
            labels = slice(first + here.start, first + here.stop)
            for strength in torch.unique(strengths[:, here]).tolist():
                scores = self.scores(asked.x, strength=strength, split=split, labels=labels)
                found = scores.argmax(-1) == classes[here]
                wanted = (strengths[:, here] == strength)[..., None]
                right[:, here] = torch.where(wanted, found, right[:, here])
        return right


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearFitted(Fitted):
    """Probes whose scores are `x @ coef^T + intercept`."""

    strengths: tuple[float, ...]
    convergence: Convergence
    coef: Float[Tensor, "strength split site label k d"]
    intercept: Float[Tensor, "strength split site label k"]

    def scores(
        self,
        x: Float[Tensor, "site m d"],
        *,
        strength: int,
        split: int,
        labels: slice = slice(None),
    ) -> Float[Tensor, "site label m k"]:
        coef = self.coef[strength, split, :, labels]
        flat = rearrange(coef, "site label k d -> site d (label k)")
        scores = rearrange(x @ flat, "site m (label k) -> site label m k", label=coef.shape[1])
        return scores + self.intercept[strength, split, :, labels, None]

    def correct(
        self,
        asked: Asked,
        classes: Int[Tensor, "label m"],
        *,
        strengths: Int[Tensor, "site label"],
        split: int,
        first: int = 0,
    ) -> Bool[Tensor, "site label m"]:
        right = torch.empty(
            *strengths.shape, classes.shape[1], dtype=torch.bool, device=classes.device
        )
        label = torch.arange(first, first + len(classes), device=strengths.device)
        for site, (x, repeats) in enumerate(zip(asked.x, asked.repeats, strict=True)):
            probe = (strengths[site], split, site, label)
            coef, intercept = self.coef[probe], self.intercept[probe]
            if repeats is None:
                right[site] = _right(x, coef, intercept, classes)
            else:
                best = torch.cat([s.argmax(-1) for s in _scored(x[repeats.rows], coef, intercept)])
                right[site] = best[repeats.of].T == classes
        return right

    def tensors(self) -> dict[str, Tensor]:
        return {"coef": self.coef, "intercept": self.intercept}


def _scored(
    x: Float[Tensor, "m d"],
    coef: Float[Tensor, "label k d"],
    intercept: Float[Tensor, "label k"],
) -> Iterator[Float[Tensor, "_ label k"]]:
    """Scores of some inputs after another."""
    budget = BLOCK_BYTES if x.device.type == "cpu" else SCORE_BYTES
    flat = rearrange(coef, "label k d -> d (label k)")
    step = max(64, budget // (intercept.numel() * x.element_size()))
    for some in torch.split(x, step):
        yield (some @ flat).view(-1, *intercept.shape).add_(intercept)


def _right(
    x: Float[Tensor, "m d"],
    coef: Float[Tensor, "label k d"],
    intercept: Float[Tensor, "label k"],
    classes: Int[Tensor, "label m"],
) -> Bool[Tensor, "label m"]:
    """Where the own class has the highest score, or is the first of those that have."""
    right, start = torch.zeros_like(classes, dtype=torch.bool), 0
    for scores in _scored(x, coef, intercept):
        own = classes[:, start : start + len(scores)].T
        # Finding the first of the highest takes several times as long as the highest.
        below = scores.gather(-1, own[..., None])[..., 0] < scores.amax(-1)
        row, label = (~below).nonzero().unbind(1)
        right[label, start + row] = scores[row, label].argmax(-1) == own[row, label]
        start += len(scores)
    return right


def closed_form(shape: Sequence[int], like: Tensor, objective: Tensor | None = None) -> Convergence:
    """Convergence of probes that are not iterated: gap 0, one iteration."""
    zeros = torch.zeros(*shape, dtype=like.dtype, device=like.device)
    return Convergence(
        objective=zeros if objective is None else objective,
        gap=zeros,
        converged=torch.ones_like(zeros, dtype=torch.bool),
        iterations=torch.ones_like(zeros, dtype=torch.int64),
    )


class Probe(ABC):
    """A kind of probe with its hyper-parameters. `__init__` stores them and does nothing else.

    The hyper-parameter called `strength_name` is the one that sweeps go through.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line: what it fits and what it assumes."""
    strength_name: ClassVar[str]
    """Which argument of `__init__` the strengths of a sweep are."""
    grid: ClassVar[tuple[float, ...]]
    """Strengths that are tried where none are given."""
    probabilistic: ClassVar[bool] = False
    """Whether softmax of the scores are probabilities (needed for codelengths)."""
    binary_row: ClassVar[bool] = False
    """Whether, of two classes, only the second has a row of coefficients, as scikit-learn's
    logistic regression."""

    @classmethod
    def fits(cls, strength: float, width: int) -> bool:
        """Whether activations of this width can be probed with this strength."""
        return True

    @abstractmethod
    def fit_many(
        self, design: Design, targets: Targets, strengths: Sequence[float], *, seed: int = 0
    ) -> Fitted:
        """Fit every (strength, split, site, label set). Raises `ProbeError`.

        Does not change the probe. `seed` decides whatever is drawn (initial weights, batches).
        """

    # ------------------------------------------------------------------ scikit-learn's face

    def fit(self: P, X: Any, y: Any, *, sample_weight: Any = None, seed: int = 0) -> P:
        """Fit on X `[n, d]` or `[site, n, d]` and y `[n]` or `[label, n]`; returns the probe.

        Raises `ProbeError` for shapes that do not fit together, fewer than two classes, more
        classes than inputs, or activations that are not finite.
        """
        x, labels = _activations(X), _labels(y)
        n = x.shape[-2]
        if labels.shape[-1] != n:
            raise ProbeError(f"{n} inputs but {labels.shape[-1]} labels; give one each")
        values, classes = torch.unique(labels.to(x.device), return_inverse=True)
        targets = make_targets(classes if classes.ndim == 2 else classes[None], values)
        weights = torch.ones(n) if sample_weight is None else torch.as_tensor(sample_weight)
        design = Design(x if x.ndim == 3 else x[None], weights[None].to(x))
        strength = float(getattr(self, self.strength_name))
        self.fitted_ = self.fit_many(design, targets, [strength], seed=seed)
        self.classes_ = values
        self.n_features_in_ = x.shape[-1]
        self._axes = (x.ndim == 3, labels.ndim == 2)
        convergence = self.fitted_.convergence
        self.n_iter_ = self._own_axes(convergence.iterations[0, 0])
        self.gap_ = self._own_axes(convergence.gap[0, 0])
        if isinstance(self.fitted_, LinearFitted):
            first = 1 if self.binary_row and len(values) == 2 else 0
            self.coef_ = self._own_axes(self.fitted_.coef[0, 0, :, :, first:])
            self.intercept_ = self._own_axes(self.fitted_.intercept[0, 0, :, :, first:])
        return self

    def decision_function(self, X: Any) -> Float[Tensor, "..."]:
        """Scores of the classes, `[site?, label?, n, class]`. Raises `ProbeError`."""
        if not hasattr(self, "fitted_"):
            raise ProbeError(f"this {self.name} probe is not fitted; call fit(X, y) first")
        x = _activations(X)
        if (x.ndim == 3) is not self._axes[0] or x.shape[-1] != self.n_features_in_:
            raise ProbeError(
                f"activations {list(x.shape)} for a probe fitted on width {self.n_features_in_}"
                f"{' and a site axis' if self._axes[0] else ''}; give it the same sites"
            )
        x = x if x.ndim == 3 else x[None]
        n_sites = self.fitted_.convergence.gap.shape[2]
        if len(x) != n_sites:
            raise ProbeError(f"{len(x)} sites for a probe of {n_sites}; give it the same sites")
        return self._own_axes(self.fitted_.scores(x, strength=0, split=0))

    def predict(self, X: Any) -> Int[Tensor, "..."]:
        """The value predicted for each input, `[site?, label?, n]`."""
        scores = self.decision_function(X)
        values: Tensor = self.classes_
        return values[scores.argmax(-1)]

    def score(self, X: Any, y: Any) -> Float[Tensor, "..."]:
        """Accuracy, `[site?, label?]`; a number for one site and one label set."""
        return (self.predict(X) == _labels(y)).double().mean(-1)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The hyper-parameters, as scikit-learn's `clone` reads them."""
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name != "self"}

    def set_params(self: P, **params: Any) -> P:
        """Change hyper-parameters. Raises `ProbeError` for one that there is not."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ProbeError(
                    f"{self.name} has no {name!r}; it has {', '.join(self.get_params())}"
                )
            setattr(self, name, value)
        return self

    def _own_axes(self, tensor: Tensor) -> Tensor:
        """Drop the site and label axes that the user's data did not have."""
        has_site, has_label = self._axes
        tensor = tensor if has_label else tensor[:, 0]
        return tensor if has_site else tensor[0]


methods: Registry[type[Probe]] = Registry("probe", "probes.methods")
"""Every kind of probe, by name."""


def make_targets(
    classes: Int[Tensor, "label n"],
    values: Int[Tensor, " k"],
    names: Sequence[str] | None = None,
) -> Targets:
    """Targets, checked. Raises `ProbeError` for fewer than two classes, or more than inputs."""
    n_labels, n = classes.shape
    if len(values) < 2:
        raise ProbeError(
            "the labels are constant, there is nothing to tell apart; probe another variable"
        )
    if len(values) > n:
        raise ProbeError(f"{len(values)} classes but {n} inputs; take more inputs than classes")
    names = tuple(names or (f"label_{i}" for i in range(n_labels)))
    return Targets(names=tuple(names), classes=classes.long(), values=values.long())


def _activations(X: Any) -> Tensor:
    x = torch.as_tensor(X)
    x = x if x.is_floating_point() else x.double()
    if x.ndim not in (2, 3):
        raise ProbeError(f"activations have shape {list(x.shape)}; give [n, d] or [site, n, d]")
    return x


def _labels(y: Any) -> Tensor:
    labels = torch.as_tensor(y)
    if labels.is_floating_point() and bool((labels != labels.round()).any()):
        raise ProbeError("labels must be whole numbers (the values of a variable)")
    if labels.ndim not in (1, 2):
        raise ProbeError(f"labels have shape {list(labels.shape)}; give [n] or [label, n]")
    return labels.long()
