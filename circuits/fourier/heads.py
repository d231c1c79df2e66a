"""Attention heads: what each carries to the answer position, and what is lost without it."""

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from circuits.cells import run_cells
from circuits.fourier import characters
from circuits.fourier.parts import logs_of, structure
from circuits.fourier.study import Study
from workbench.transformer import Edit, forward


def head_parts(study: Study) -> list[dict[str, Any]]:
    """Every head: accuracy when it is set to its mean over inputs, and the frequencies it carries.

    `frequency_shares` is the share of the head's output (as a function of either operand, the
    other averaged out) in each embedding frequency's plane.
    """
    config, subject = study.subject.config, study.subject
    names = [(layer, head) for layer in range(config.n_layers) for head in range(config.n_heads)]
    hooks = [f"blocks.{layer}.attn.hook_z" for layer in range(config.n_layers)]
    tokens = subject.task.encode(study.inputs).to(subject.device)
    with torch.no_grad():
        taps = [*hooks, *(hook.replace("hook_z", "hook_result") for hook in hooks)]
        tapped = forward(subject.params, tokens, config, taps=taps).activations
    means = {hook: tapped[hook].mean(0) for hook in hooks}

    def edits(cells: Int[Tensor, " cell"]) -> Mapping[str, Edit]:
        return {
            hook: _ablate([names[i] for i in cells.tolist()], layer, means[hook])
            for layer, hook in enumerate(hooks)
        }

    target = study.label(study.inputs).expand(len(names), -1)
    outcome = run_cells(subject, study.inputs, target, edits=edits)
    accuracy = (outcome.answer == target).double().mean(1)
    return [
        {
            "name": f"a{layer}.h{head}",
            "accuracy_without": float(accuracy[i]),
            "frequency_shares": _carried(
                study, tapped[f"blocks.{layer}.attn.hook_result"][:, -1, head]
            ),
        }
        for i, (layer, head) in enumerate(names)
    ]


def _ablate(
    heads: list[tuple[int, int]], layer: int, mean: Float[Tensor, "pos head d_head"]
) -> Edit:
    """Set, in each cell, that cell's head to its mean (in the layer it belongs to)."""

    def edit(z: Float[Tensor, "cell batch pos head d_head"]) -> Tensor:
        z = z.clone()
        for cell, (at, head) in enumerate(heads):
            if at == layer:
                z[cell, :, :, head] = mean[-z.shape[2] :, head]
        return z

    return edit


def _carried(study: Study, result: Float[Tensor, "batch d_model"]) -> dict[str, float]:
    """Share of a head's output in each embedding frequency, over both operands."""
    cyclic = structure(study.subject)
    planes = characters.fourier_planes(cyclic)
    energy, total = torch.zeros(len(planes)).double(), 0.0
    for column in (0, 1):
        logs = logs_of(cyclic, study.inputs[:, column])
        sums = torch.zeros(cyclic.order, result.shape[1], dtype=torch.float64)
        sums.index_add_(0, logs, result.double().cpu())
        counts = torch.bincount(logs, minlength=cyclic.order).clamp_min(1)
        mean = (sums / rearrange(counts, "x -> x 1"))[cyclic.logs]
        energy += characters.plane_energy(planes, mean)
        total += float((mean - mean.mean(0)).square().sum())
    return {
        str(k): float(energy[k - 1]) / max(total, 1e-30) for k in study.parts.embedding_frequencies
    }
