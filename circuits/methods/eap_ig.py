"""Edge attribution with gradients averaged over inputs between base and patch (EAP-IG).

Hanna et al. 2024, arXiv:2403.17806, equation 3, after integrated gradients (Sundararajan et al.
2017, arXiv:1703.01365). Both embeddings move together along a straight line from the base run
(share 0) to what is patched in (share 1); everything else follows; the gradients at the readers
are averaged over the line. As steps grow, the scores of all edges out of the embeddings sum to
m(embeddings patched) - m(base), which under resample ablation is m(other) - m(base). (Not where
LayerNorm reads nothing but zeros at the end of the line, as zero ablation makes it: its gradient
grows without bound there.)
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from circuits.edge_attribution import INPUTS, Course, attribute_edges
from circuits.mechanism import Progress
from circuits.method import Method, methods
from circuits.problem import Problem

Rule = Literal["left", "midpoint"]
"""Where on the line gradients are taken.

`left` are the published points: corrupted + k/steps (clean - corrupted), k = 0 ... steps-1, for a
clean run that is patched with corrupted activations. In base and patch: shares 1 - k/steps, the
patched end among them, the base run not. `midpoint` takes the middle of each of `steps` pieces; its
error falls as 1/steps^2 where the network is smooth, that of `left` as 1/steps.
"""


def shares_on_line(steps: int, rule: Rule) -> list[float]:
    """Shares of patch - base, each of weight 1/steps."""
    if rule == "left":
        return [1 - k / steps for k in range(steps)]
    return [(k + 0.5) / steps for k in range(steps)]


@methods.register("eap_ig")
@dataclass(frozen=True, kw_only=True)
class EapIg(Method):
    """As `eap`, with the mean gradient over inputs between base and patch."""

    name: ClassVar[str] = "eap_ig"
    summary: ClassVar[str] = "EAP with gradients integrated over the inputs (Hanna 2024)"

    steps: Annotated[int, Field(ge=1)] = 5
    rule: Rule = "midpoint"

    def _score(
        self, problem: Problem, seed: int
    ) -> Generator[Progress, None, Float[Tensor, "*pos writer reader"]]:
        course = Course(INPUTS, tuple(range(len(problem.graph.writers))))
        shares = shares_on_line(self.steps, self.rule)
        return (yield from attribute_edges(problem, [course], shares))
