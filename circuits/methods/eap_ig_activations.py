"""Edge attribution with gradients averaged between base and patch of the writers themselves.

The variant `EAP-IG-activations` of the repository of Hanna et al. 2024, arXiv:2403.17806. Writers
move in groups: the embeddings, the heads of each layer, each MLP. While a group moves along the
straight line from what it writes on the base run to what is patched in, what comes before it stays
and what comes after follows; the gradients at the readers, averaged over that line, score the edges
out of that group. As steps grow, these scores sum to m(group patched) - m(base).

Where LayerNorm reads nothing but zeros at the end of a line (zero ablation of both embeddings), its
gradient grows without bound there and no number of steps is enough; take another ablation.

The repository adds, for every edge, the gradients met while any group moves, its own or another,
and divides by the number of groups too. Its scores are then means over lines most of which do not
move the edge's writer, they do not sum to an effect, and they may rank edges otherwise than here.
"""

from dataclasses import dataclass
from typing import ClassVar

from circuits.edge_attribution import INPUTS, Course, writing_hooks
from circuits.graph import Graph
from circuits.method import methods
from circuits.methods.eap_ig import IntegratedMethod
from circuits.problem import Problem


def writer_groups(graph: Graph) -> list[tuple[int, ...]]:
    """Writers that move together, by index: embeddings, the heads of each layer, each MLP."""
    after = [hook for hook in writing_hooks(graph) if hook.start not in INPUTS]
    return [INPUTS, *(tuple(range(hook.start, hook.start + hook.count)) for hook in after)]


@methods.register("eap_ig_activations")
@dataclass(frozen=True, kw_only=True)
class EapIgActivations(IntegratedMethod):
    """As `eap`, with the mean gradient while the edge's writer and its group are patched."""

    name: ClassVar[str] = "eap_ig_activations"
    summary: ClassVar[str] = "EAP with gradients integrated over each writer's output (Hanna 2024)"

    def _courses(self, problem: Problem) -> list[Course]:
        return [Course(group, group) for group in writer_groups(problem.graph)]
