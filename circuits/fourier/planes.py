"""Keep, remove and rotate named planes of the embeddings; keep or remove those of the logits.

Signs: every number is large when the claim holds and should be small for its controls.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.cells import Outcome, correct, read_cells, run_cells
from circuits.fourier.parts import (
    LogitHead,
    keep_transform,
    logs_of,
    remove_transform,
    structure,
    transformed_embedding,
)
from circuits.fourier.study import (
    Measured,
    Study,
    accuracy,
    average,
    control_projectors,
    embedding_projector,
    generator_for,
    logit_projector,
    run_embedding,
)
from workbench.finding import Control


def kept_embedding(study: Study) -> Measured:
    """Accuracy with only the named planes of both operand embeddings kept."""
    return _embedding_accuracy(study, keep_transform(embedding_projector(study))[None])


def kept_embedding_controls(study: Study) -> list[Control]:
    """The same with other planes, random subspaces of equal norm, and the wrong characters."""
    return [
        average(name, _cell_accuracy(study, torch.stack([keep_transform(p, c) for p, c in cells])))
        for name, cells in control_projectors(study).items()
    ]


def removed_embedding(study: Study) -> Measured:
    """How far accuracy falls when the named planes of both embeddings are removed."""
    n = len(structure(study.subject).elements)
    whole, cut = torch.eye(n).double(), remove_transform(embedding_projector(study))
    return _fall(study, run_embedding(study, torch.stack([whole, cut])))


def removed_embedding_controls(study: Study) -> list[Control]:
    """The same fall for other planes, random subspaces of equal norm, the wrong characters."""
    before = float(accuracy(study))
    return [
        average(
            name,
            before - _cell_accuracy(study, torch.stack([remove_transform(p, c) for p, c in cells])),
        )
        for name, cells in control_projectors(study).items()
    ]


def kept_logits(study: Study) -> Measured:
    """Accuracy with only the key planes of the logits (over answers) kept."""
    outcome = _run_head(study, logit_projector(study)[None])
    return _accuracy(study, outcome)


def kept_logits_controls(study: Study) -> list[Control]:
    """The same with as many other planes, random subspaces, and the wrong characters."""
    return [
        average(name, _head_accuracy(study, torch.stack([p for p, _ in cells])))
        for name, cells in control_projectors(study, logits=True).items()
    ]


def removed_logits(study: Study) -> Measured:
    """How far accuracy falls when the key planes of the logits are removed."""
    projector = logit_projector(study)
    whole = torch.eye(len(projector)).double()
    return _fall(study, _run_head(study, torch.stack([whole, whole - projector])))


def removed_logits_controls(study: Study) -> list[Control]:
    """The same fall for as many other planes, random subspaces, and the wrong characters."""
    before = float(accuracy(study))
    controls = []
    for name, cells in control_projectors(study, logits=True).items():
        removed = torch.stack([remove_transform(p) for p, _ in cells])
        controls.append(average(name, before - _head_accuracy(study, removed)))
    return controls


def rotated(study: Study) -> Measured:
    """Accuracy as if a were a + s, after rotating a's named planes by the angle of s."""
    outcome, target = _rotate(study, embedding_projector(study), study.shifts)
    right = correct(outcome, target).double()
    worst = float(right.mean(1).min())
    details = {"shifts": float(len(study.shifts)), "worst_shift": worst}
    return Measured(float(right.mean()), right.mean(0), details, n=right.numel())


def rotated_controls(study: Study) -> list[Control]:
    """The same prediction after rotating other planes, or the named planes by another angle."""
    controls = []
    generator = generator_for(study, "edit")
    for name, cells in control_projectors(study).items():
        shifts = _drawn(study.shifts, len(cells), generator)
        results = [
            _rotate(study, projector, shift[None])
            for (projector, _), shift in zip(cells, shifts, strict=True)
        ]
        values = [correct(outcome, target).double().mean() for outcome, target in results]
        controls.append(average(name, torch.stack(values)))
    shifts = _drawn(study.shifts, study.n_draws, generator)
    order = structure(study.subject).order
    extra = torch.randint(1, order, shifts.shape, generator=generator)
    outcome, _ = _rotate(study, embedding_projector(study), (shifts + extra) % order)
    right = correct(outcome, _shifted_labels(study, shifts)).double().mean(1)
    return [*controls, average("another angle", right)]


def _embedding_accuracy(study: Study, transforms: Float[Tensor, "1 element element"]) -> Measured:
    return _accuracy(study, run_embedding(study, transforms))


def _accuracy(study: Study, outcome: Outcome) -> Measured:
    right = (outcome.answer[0] == study.label(study.inputs)).double()
    details = {"restricted_loss": float(outcome.loss[0].double().mean())}
    return Measured(float(right.mean()), right, details)


def _fall(study: Study, outcome: Outcome) -> Measured:
    right = (outcome.answer == study.label(study.inputs)).double()
    loss = outcome.loss.double().mean(1)
    details = {
        "accuracy_without": float(right[1].mean()),
        "chance": study.subject.task.chance,
        "loss": float(loss[0]),
        "excluded_loss": float(loss[1]),
    }
    return Measured(float(right[0].mean() - right[1].mean()), right[0] - right[1], details)


def _cell_accuracy(
    study: Study, transforms: Float[Tensor, "cell element element"]
) -> Float[Tensor, " cell"]:
    outcome = run_embedding(study, transforms)
    return (outcome.answer == study.label(study.inputs)).double().mean(1)


def _run_head(study: Study, transforms: Float[Tensor, "cell element element"]) -> Outcome:
    head = LogitHead(structure(study.subject).elements, transforms)
    target = study.label(study.inputs).expand(len(transforms), -1)
    return read_cells(study.subject, study.inputs, target, head)


def _head_accuracy(
    study: Study, transforms: Float[Tensor, "cell element element"]
) -> Float[Tensor, " cell"]:
    outcome = _run_head(study, transforms)
    return (outcome.answer == study.label(study.inputs)).double().mean(1)


def _rotate(
    study: Study, projector: Float[Tensor, "element element"], shifts: Int[Tensor, " shift"]
) -> tuple[Outcome, Int[Tensor, "shift batch"]]:
    """Give operand a the component of a + s inside a subspace, for each s."""
    whole = torch.eye(len(projector), dtype=torch.float64)
    moved = torch.stack([_shift_matrix(study, s) for s in shifts.tolist()])
    transform_a = whole - projector + projector @ moved
    transform_b = whole.expand_as(transform_a)
    embed = transformed_embedding(study.subject, transform_a, transform_b)
    target = _shifted_labels(study, shifts)
    overrides = {"embed.W_E": embed}
    return run_cells(study.subject, study.inputs, target, overrides=overrides), target


def _shift_matrix(study: Study, shift: int) -> Float[Tensor, "element element"]:
    """Row of each element: the element whose logarithm is larger by `shift`."""
    cyclic = structure(study.subject)
    position = torch.empty(cyclic.order, dtype=torch.long)
    position[cyclic.logs] = torch.arange(len(cyclic.logs))
    moved = position[(cyclic.logs + shift) % cyclic.order]
    return torch.eye(len(moved), dtype=torch.float64)[moved]


def _shifted_labels(study: Study, shifts: Int[Tensor, " shift"]) -> Int[Tensor, "shift batch"]:
    """The answers for (a + s, b), s added to the logarithm of a."""
    cyclic = structure(study.subject)
    residues = torch.empty(cyclic.order, dtype=torch.long)
    residues[cyclic.logs] = cyclic.elements
    log_a = logs_of(cyclic, study.inputs[:, 0])
    labels = []
    for s in shifts.tolist():
        a = residues[(log_a + s) % cyclic.order]
        labels.append(study.label(torch.stack([a, study.inputs[:, 1]], dim=1)))
    return torch.stack(labels)


def _drawn(
    shifts: Int[Tensor, " shift"], n: int, generator: torch.Generator
) -> Int[Tensor, " draw"]:
    return shifts[torch.randint(len(shifts), (n,), generator=generator)]
