"""What scores of edges and nodes must satisfy: identities, derivatives, and slow oracles.

float64 throughout; 1e-10 covers sums of some hundred terms of order 1 in another order.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits import edge_attribution
from circuits.edges import measure_circuits
from circuits.method import methods
from circuits.methods import eap_ig
from circuits.methods.eap import Eap
from circuits.methods.eap_ig import EapIg, IntegratedMethod, moved_metrics, shares_on_line
from circuits.methods.eap_ig_activations import EapIgActivations, writer_groups
from circuits.methods.exact import Exact
from circuits.node_attribution import node_attribution
from circuits.problem import ABLATIONS, Problem
from tests.reference.networks import SEEDS, random_config
from tests.unit.test_edges import problem
from workbench.errors import CircuitError
from workbench.metrics import Metric, accuracy
from workbench.progress import Progress, finish
from workbench.transformer import Edit, forward

GRADIENT_METHODS = ("eap", "eap_ig", "eap_ig_activations")


def assert_close(ours: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(ours, expected, atol=atol, rtol=0)


def smooth(seed: int, *, per_position: bool = False) -> Problem:
    """A network without kinks: only there do quadratures have their order."""
    return problem(
        seed, per_position=per_position, config=replace(random_config(seed), act_fn="gelu")
    )


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:5])
def test_first_order_is_exact_on_edges_into_linear_logits(seed: int, per_position: bool) -> None:
    config = replace(random_config(seed), normalization=None)
    weights = torch.randn(2, config.d_vocab_out, generator=torch.Generator().manual_seed(seed))
    linear = Metric(name="linear", function=lambda x: (x * weights).sum((-1, -2)))
    made = problem(seed, per_position=per_position, config=config)
    made = replace(made, metric=linear, ablation=ABLATIONS[seed % 4])
    ours, exact = (finish(method().score(made)).values for method in (Eap, Exact))
    assert_close(ours[..., -1], exact[..., -1])
    assert exact[..., -1].abs().max() > 0.01


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:7])
def test_eap_is_minus_the_derivative_of_the_masks(seed: int, per_position: bool) -> None:
    """Cutting a little of one edge, by finite differences of the circuit's forward pass."""
    made = replace(problem(seed, per_position=per_position), ablation=ABLATIONS[seed % 4])
    scores = finish(Eap().score(made))
    places = made.graph.is_edge.nonzero()
    if len(places) > 60:
        drawn = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:60]
        places = places[drawn]
    step = 1e-5
    keep = made.graph.is_edge.double().repeat(2 * len(places), *[1] * made.graph.is_edge.ndim)
    for cell, place in enumerate(places.tolist()):
        keep[(2 * cell, *place)] += step
        keep[(2 * cell + 1, *place)] -= step
    ends = measure_circuits(made, keep).mean(-1).view(-1, 2)
    # Central differences: an error of order step^2 and rounding / step, both about 1e-10.
    assert_close(scores.values[tuple(places.T)], (ends[:, 1] - ends[:, 0]) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:12])
def test_a_node_is_the_sum_of_its_edges(seed: int, per_position: bool) -> None:
    """Conservation: gradients at readers and at writers are two ways through the graph."""
    made = replace(problem(seed, per_position=per_position), ablation=ABLATIONS[seed % 4])
    nodes = node_attribution(made)
    assert nodes.shape == (3, *made.graph.is_edge.shape[:-1])
    assert_close(finish(Eap().score(made)).values.sum(-1), nodes.mean(0))


@pytest.mark.parametrize("seed", [0, 3, 5, 9])
def test_node_attribution_is_the_derivative_of_moving_a_writer(seed: int) -> None:
    """Per pair, against finite differences of a forward pass with one edit."""
    made = problem(seed, per_position=True)
    nodes = node_attribution(made)
    change = edge_attribution.change_of_writers(made, torch.arange(3))
    step = 1e-5
    for writing in edge_attribution.writing_hooks(made.graph):
        for head in range(writing.count):
            writer, pos, ends = writing.start + head, seed % made.config.n_ctx, []
            for sign in (1, -1):
                shift = torch.zeros_like(change[writer])
                shift[:, pos] = sign * step * change[writer][:, pos]
                edit = _add(shift, head if writing.split else None)
                ends.append(_edited(made, {writing.hook: edit}))
            # As above: an error of order step^2 and rounding / step.
            assert_close(nodes[:, pos, writer], (ends[0] - ends[1]) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("per_position", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:8])
def test_integrating_over_inputs_is_complete_and_converges(seed: int, per_position: bool) -> None:
    """Edges out of the embeddings sum to m(other) - m(base), at the order of each rule."""
    made = smooth(seed, per_position=per_position)
    gap = (made.other_metric - made.base_metric).mean()
    error = {
        (rule, steps): abs(
            float(finish(EapIg(steps=steps, rule=rule).score(made)).values[..., :2, :].sum())
            - float(gap)
        )
        for rule in ("left", "midpoint")
        for steps in (32, 64)
    }
    # Halving the step divides an error of second order by four, of first order by two. The
    # integrand is smooth, yet with fourth derivatives of its own: hence the width.
    assert 3.5 < error["midpoint", 32] / error["midpoint", 64] < 4.5
    assert error["midpoint", 64] < min(2e-4, error["left", 64])


@pytest.mark.parametrize("seed", [0, 4, 6, 7])
def test_the_published_points_converge_with_first_order(seed: int) -> None:
    made = smooth(seed)
    gap = float((made.other_metric - made.base_metric).mean())
    errors = [
        abs(float(finish(EapIg(steps=n, rule="left").score(made)).values[:2].sum()) - gap)
        for n in (32, 64)
    ]
    assert 1.9 < errors[0] / errors[1] < 2.1


@pytest.mark.parametrize("method", [EapIg, EapIgActivations])
@pytest.mark.parametrize("seed", [0, 3, 6])
def test_steps_are_doubled_until_the_scores_settle(
    seed: int, method: type[IntegratedMethod]
) -> None:
    """Both conditions from scores of fixed numbers of steps, written out plainly."""
    made = replace(smooth(seed), ablation=ABLATIONS[seed % 4])
    groups = writer_groups(made.graph) if method is EapIgActivations else [(0, 1)]
    gaps = [effect_of_group(made, group) for group in groups]
    allowed = 0.01 * max(float(gap.abs().mean()) for gap in gaps)
    used, before = 4, None
    while True:
        values = finish(method(steps=used).score(made)).values
        left = [
            abs(float(values[list(group)].sum() - gap.mean()))
            for group, gap in zip(groups, gaps, strict=True)
        ]
        if before is not None and max(left) <= allowed:
            if float((values - before).norm()) <= 0.01 * float(values.norm()):
                break
        used, before = 2 * used, values
    scores = finish(method().score(made))
    assert scores.settings["steps"] == used > 4
    assert torch.equal(scores.values, values)


@pytest.mark.parametrize("method", [EapIg, EapIgActivations])
def test_the_search_for_steps_ends_at_the_most_and_a_given_number_is_kept(
    method: type[IntegratedMethod],
) -> None:
    made = smooth(0)
    never = method(tolerance=1e-12, most_steps=11, halvings=0)
    scores = finish(never.score(made))
    assert scores.settings["steps"] == 11
    assert torch.equal(scores.values, finish(method(steps=11).score(made)).values)
    assert scores.settings["halvings"] == 0
    assert finish(method(steps=3).score(made)).settings["steps"] == 3
    done = [step.done for step in progress_of(never, made)]
    assert done == sorted(done) and done[-1] == 3


def progress_of(method: IntegratedMethod, made: Problem) -> list[Progress]:
    seen, steps = [], method.score(made)
    while True:
        try:
            seen.append(next(steps))
        except StopIteration:
            return seen


def test_a_steep_place_that_few_points_miss_is_found() -> None:
    """The metric is 0 below and 1 above a place of width 1/50 in the middle of the line.

    4 and 8 midpoints see no gradient at all, so that their scores agree; only the sum tells.
    """
    made = replace(smooth(2), clean=smooth(2).clean[:1], corrupted=smooth(2).corrupted[:1])
    ends = [
        linear_read(forward(made.params, tokens, made.config).logits[:, list(made.positions)])
        for tokens in (made.clean, made.corrupted)
    ]

    def steep(logits: Tensor) -> Tensor:
        share = (linear_read(logits) - ends[0]) / (ends[1] - ends[0])
        return (50 * (share - 0.5)).clamp(0, 1)

    made = replace(made, metric=Metric(name="steep", function=steep))
    for few in (4, 8):
        with pytest.raises(CircuitError, match="eap_ig scores no edge above 0 by steep"):
            finish(EapIg(steps=few).score(made))
    scores = finish(EapIg().score(made))
    steps = scores.settings["steps"]
    assert steps > 32
    # One point more or less in the steep place, of about steps / 50 there.
    assert float(scores.values[:2].sum()) == pytest.approx(1, abs=50 / steps)


def linear_read(logits: Tensor) -> Tensor:
    return logits[..., 0].mean(-1)


@pytest.mark.parametrize("seed", [0, 4, 5])
def test_moving_a_group_wholly_is_an_edit_of_its_hooks(seed: int) -> None:
    """Cutting all edges out of a group against a forward pass in which it writes the patch."""
    made = replace(problem(seed), ablation=ABLATIONS[seed % 4])
    groups = writer_groups(made.graph)
    moved = moved_metrics(made, [edge_attribution.Course(group, group) for group in groups])
    for group, metrics in zip(groups, moved, strict=True):
        assert_close(metrics - made.base_metric, effect_of_group(made, group))


def test_points_side_by_side_and_one_after_another_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = problem(1)
    for method in (EapIg, EapIgActivations):
        expected = finish(method(steps=7).score(made)).values
        monkeypatch.setattr(eap_ig, "POINTS_AT_ONCE", 3)  # parts of 3, 3 and 1
        assert_close(finish(method(steps=7).score(made)).values, expected)
        monkeypatch.undo()


def test_the_points_of_both_rules() -> None:
    assert shares_on_line(4, "left") == [1.0, 0.75, 0.5, 0.25]
    assert shares_on_line(4, "midpoint") == [0.125, 0.375, 0.625, 0.875]


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_one_left_point_is_the_gradient_at_the_other_input(seed: int) -> None:
    """Moved all the way, the run is the other one: minus EAP of the opposite direction."""
    made = problem(seed)
    ours = finish(EapIg(steps=1, rule="left").score(made)).values
    assert_close(ours, -finish(Eap().score(replace(made, direction="denoising"))).values)


@pytest.mark.parametrize("ablation", ["resample", "mean"])
@pytest.mark.parametrize("seed", SEEDS[:6])
def test_integrating_over_activations_is_complete_for_every_group(seed: int, ablation: str) -> None:
    """The edges out of a group sum to what patching that group alone does."""
    made = replace(smooth(seed), ablation=ablation)
    values = finish(EapIgActivations(steps=64).score(made)).values
    groups = writer_groups(made.graph)
    assert [w for group in groups for w in group] == list(range(len(made.graph.writers)))
    for group in groups:
        # The midpoint rule at 64 steps: 1/(24 * 64^2) of a second derivative of up to 50.
        effect = effect_of_group(made, group).mean()
        assert_close(values[list(group)].sum(), effect, atol=5e-4)


def effect_of_group(made: Problem, group: tuple[int, ...]) -> Tensor:
    """What each pair's metric changes by when these writers write what is patched in."""
    change = edge_attribution.change_of_writers(made, torch.arange(len(made.base)))
    edits: dict[str, Edit] = {}
    for writing in edge_attribution.writing_hooks(made.graph):
        if writing.start in group:
            moved = change[writing.start : writing.start + writing.count]
            shift = moved.permute(1, 2, 0, 3) if writing.split else moved[0]
            edits[writing.hook] = _add(shift, None)
    return _edited(made, edits) - made.base_metric


@pytest.mark.parametrize("method", [*GRADIENT_METHODS, "acdc"])
def test_equal_inputs_have_no_effects(method: str) -> None:
    made = problem(3)
    same = replace(made, corrupted=made.clean)
    values = finish(methods.get(method)().score(same)).values
    assert torch.equal(values, torch.zeros_like(values))
    assert torch.equal(node_attribution(same), torch.zeros(3, len(made.graph.writers)).double())


@pytest.mark.parametrize("method", GRADIENT_METHODS)
@pytest.mark.parametrize("per_position", [False, True])
def test_chunks_of_pairs_change_nothing(
    method: str, per_position: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = problem(5, per_position=per_position)
    # Integrals of few steps: a rough one has as many chunks as a fine one.
    chosen = methods.get(method)
    how = chosen(tolerance=0.05) if issubclass(chosen, IntegratedMethod) else chosen()
    expected = finish(how.score(made)).values
    nodes = node_attribution(made)
    monkeypatch.setattr(edge_attribution, "CPU_BUDGET", 1)
    chunks = edge_attribution.chunks_of_rows(made, len, n_cells=1)
    assert [n for _, n in chunks] == [1, 1, 1]
    assert_close(finish(how.score(made)).values, expected)
    assert_close(node_attribution(made), nodes)


@pytest.mark.parametrize("method", [*GRADIENT_METHODS, "edge_masks"])
def test_a_metric_without_gradients_is_refused(method: str) -> None:
    made = problem(1)
    answer = torch.zeros(3, 2, dtype=torch.long)
    scored = torch.ones(3, 2, dtype=torch.bool)
    metric = Metric(name="accuracy", function=lambda x: accuracy(x, answer, scored))
    with pytest.raises(CircuitError, match=r"accuracy has no gradient; .* such as exact"):
        finish(methods.get(method)().score(replace(made, metric=metric)))


def test_a_metric_of_some_pairs_is_that_of_all() -> None:
    made = problem(2)
    logits = forward(made.params, made.clean, made.config, positions=made.positions).logits
    rows = torch.tensor([2, 0])
    some = edge_attribution.measure_rows(made, logits[rows][None], rows)
    assert_close(some[0], made.metric(logits)[rows])


def _add(shift: Tensor, head: int | None) -> Edit:
    def add(written: Tensor) -> Tensor:
        if head is None:
            return written + shift
        moved = written.clone()
        moved[:, :, head] += shift
        return moved

    return add


def _edited(made: Problem, edits: dict[str, Edit]) -> Tensor:
    logits = forward(made.params, made.base, made.config, edits=edits).logits
    return made.metric(logits[:, list(made.positions)])
