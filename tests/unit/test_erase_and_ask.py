"""Erasing at a site and asking the network again, on networks of which the answer is known."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from probes.causal import answers_under, erase_and_ask
from probes.controls import control_task
from probes.design import Design, Targets
from probes.erase import AffineMap
from probes.examples import classes_of
from probes.method import make_targets
from probes.sites import ProbeSite, parse_site, read_activations, width_of
from tests.unit.probed_networks import adder, random_subject
from tests.unit.small_networks import zeros
from workbench.errors import HookError
from workbench.model_config import ModelConfig
from workbench.subject import Subject
from workbench.task import Inputs, make_task
from workbench.tasks.modular_addition import ModularAddition
from workbench.transformer import forward

P = 7
ADDER = adder(P)
DOMAIN = ADDER.task.domain()
ANSWER = ADDER.task.solve(DOMAIN)[:, 0]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def site(text: str, subject: Subject = ADDER) -> ProbeSite:
    return parse_site(text, subject.config)


def design_of(subject: Subject, sites: list[ProbeSite], inputs: Inputs) -> Design:
    """All inputs train."""
    tokens = subject.task.encode(inputs)
    x = read_activations(subject.params, tokens, subject.config, sites, dtype=torch.float64)
    return Design(x, torch.ones(1, len(inputs)))


def targets_of(subject: Subject, variable: str, inputs: Inputs) -> Targets:
    classes, values = classes_of(subject.task.variables(inputs)[variable], variable)
    return make_targets(classes[None], values)


# ---------------------------------------------------------------------- the network itself


def test_the_adder_holds_what_it_is_said_to_hold() -> None:
    made = forward(
        ADDER.params, ADDER.task.encode(DOMAIN), ADDER.config, taps=["blocks.0.hook_resid_post"]
    )
    a, b = DOMAIN.unbind(1)
    one = torch.eye(P).double()
    last = made.activations["blocks.0.hook_resid_post"][:, 2]
    # e^-100 of attention strays.
    expected = torch.cat([0 * one[a], one[a], one[b], one[ANSWER]], dim=1)
    torch.testing.assert_close(last[:, : 4 * P], expected, atol=1e-12, rtol=0)
    assert torch.equal(made.logits[:, -1].argmax(-1), ANSWER)


# ---------------------------------------------------------------------- erasing


@pytest.mark.parametrize(
    ("variable", "where", "rank", "harmed"),
    [
        # Read from here: with a at its mean, every answer has one logit, and 0 is given.
        ("a", "blocks.0.hook_resid_pre@0", P - 1, True),
        ("a", "blocks.0.hook_resid_mid@2", P - 1, True),
        ("a", "blocks.0.attn.hook_v[0]@0", P - 1, True),
        ("a", "blocks.0.attn.hook_z[0]@2", P - 1, True),
        ("a", "blocks.0.attn.hook_result[0]@2", P - 1, True),
        ("b", "blocks.0.hook_resid_mid@2", P - 1, True),
        ("b", "blocks.0.hook_resid_pre@1", P - 1, True),
        ("answer", "blocks.0.hook_resid_post@2", P - 1, True),
        ("answer", "blocks.0.hook_mlp_out@2", P - 1, True),
        # There, but not read from here (any more).
        ("a", "blocks.0.hook_resid_mid@0", P - 1, False),
        ("a", "blocks.0.hook_resid_mid@1", P - 1, False),
        ("a", "blocks.0.hook_resid_post@2", P - 1, False),
        ("b", "blocks.0.hook_resid_post@2", P - 1, False),
        ("a", "blocks.0.attn.hook_v[1]@0", P - 1, False),
        # Not there: over all pairs, no class mean differs, and nothing is erased.
        ("b", "blocks.0.hook_resid_pre@0", 0, False),
        ("a", "blocks.0.attn.hook_z[1]@2", 0, False),
        ("a", "blocks.0.hook_resid_pre@2", 0, False),
        ("answer", "blocks.0.hook_resid_mid@2", 0, False),
        ("answer", "blocks.0.hook_resid_post@1", 0, False),
    ],
)
def test_erasing_changes_exactly_the_answers_predicted(
    variable: str, where: str, rank: int, harmed: bool
) -> None:
    sites = [site(where)]
    found = erase_and_ask(
        ADDER,
        sites,
        design_of(ADDER, sites, DOMAIN),
        targets_of(ADDER, variable, DOMAIN),
        DOMAIN,
        n_random=3,
        generator=generator(),
    )
    assert found.rank.tolist() == [rank]
    assert bool(found.intact.all())
    expected = ANSWER == 0 if harmed else torch.ones(P * P, dtype=torch.bool)
    assert torch.equal(found.erased[0], expected)
    if rank == 0:
        assert all(bool(draws.all()) for draws in found.random)


def test_where_a_variable_is_all_there_is_there_is_nothing_to_compare_with() -> None:
    # Operand a spans P - 1 dimensions at position 0, which holds nothing else: as many random
    # directions are the same ones.
    sites = [site("blocks.0.hook_resid_pre@0")]
    found = erase_and_ask(
        ADDER,
        sites,
        design_of(ADDER, sites, DOMAIN),
        targets_of(ADDER, "a", DOMAIN),
        DOMAIN,
        n_random=4,
        generator=generator(),
    )
    assert torch.equal(found.erased[0], ANSWER == 0)
    assert [len(draws) for draws in found.random + found.control] == [0, 0]


@dataclass(frozen=True, kw_only=True)
class Odd(ModularAddition):
    """Whether a is odd."""

    name: ClassVar[str] = "odd"

    def solve(self, inputs: Inputs) -> Int[Tensor, "batch answer"]:
        return inputs[:, :1] % 2

    def variables(self, inputs: Inputs) -> dict[str, Int[Tensor, " batch"]]:
        return {"odd": inputs[:, 0] % 2, "a": inputs[:, 0]}


def odd_network(p: int) -> Subject:
    """Reads from the one-hot of a, of p - 1 dimensions, the one that tells odd from even."""
    subject = adder(p)
    reads = torch.zeros_like(subject.params["unembed.W_U"])
    reads[p + torch.arange(p), torch.arange(p) % 2] = 1
    params = {**subject.params, "unembed.W_U": reads}
    return Subject(params=params, config=subject.config, task=Odd(p=p))


def test_one_direction_of_many_is_the_variables_and_random_ones_are_not() -> None:
    p = 29
    subject = odd_network(p)
    inputs = subject.task.domain()
    sites = [site(where, subject) for where in ("blocks.0.hook_resid_post@2", "hook_embed@0")]
    odd = inputs[:, 0] % 2
    tables = [control_task(inputs[:, :1], odd, generator(seed)) for seed in range(8)]
    found = erase_and_ask(
        subject,
        sites,
        design_of(subject, sites, inputs),
        targets_of(subject, "odd", inputs),
        inputs,
        n_random=8,
        controls=make_targets(torch.stack(tables), torch.arange(2)),
        generator=generator(),
    )
    assert found.rank.tolist() == [1, 1]
    assert [draws.shape[0] for draws in found.random + found.control] == [8, 8, 8, 8]
    # The difference of the logits is 1 for the 15 even and -1 for the 14 odd values, a function of
    # the class: erased, it is its mean 1/29 for all, and "even" is the answer.
    even = inputs[:, 0] % 2 == 0
    assert bool((found.erased == even).all())
    # A random direction takes 1/28 of the difference's variance on average; an answer flips only
    # where that share and the activation's part along it are large together.
    erased = found.erased.double().mean(-1)
    for i in range(2):
        random, same = (draws[i].double().mean(-1) for draws in (found.random, found.control))
        assert random.mean() > 0.97 and bool((random > erased[i] + 0.3).all())
        # A random table of a is a direction of the same space, and takes part of the one read.
        assert bool((same > erased[i]).all()) and same.mean() > erased[i] + 0.2


def test_only_the_first_label_set_is_erased() -> None:
    sites = [site("blocks.0.hook_resid_mid@2")]
    design = design_of(ADDER, sites, DOMAIN)
    of_a, of_b = (targets_of(ADDER, name, DOMAIN) for name in "ab")
    both = make_targets(torch.cat([of_a.classes, of_b.classes]), of_a.values)
    alone, beside = (
        erase_and_ask(ADDER, sites, design, targets, DOMAIN, n_random=2, generator=generator())
        for targets in (of_a, both)
    )
    assert torch.equal(alone.erased, beside.erased)
    assert torch.equal(alone.rank, beside.rank)


def test_random_directions_do_not_depend_on_the_sites_beside() -> None:
    subject = random_subject(make_task("modular_addition", {"p": P}), seed=3, scale=3.0)
    wheres = [
        "blocks.0.hook_resid_pre@1",
        "blocks.0.hook_resid_post@2",
        "blocks.0.hook_resid_mid@0",
    ]
    sites = [site(where, subject) for where in wheres]
    targets = targets_of(subject, "wraps", DOMAIN)
    source = generator(5)
    before = source.get_state()
    # An untrained network rarely adds: its own answers are what is to change.
    network = Subject(params=subject.params, config=subject.config, task=_Own(p=P))

    def ask(some: list[ProbeSite]) -> tuple[Tensor, list[Tensor]]:
        design = design_of(network, some, DOMAIN)
        found = erase_and_ask(network, some, design, targets, DOMAIN, n_random=5, generator=source)
        return found.erased, found.random

    erased, random = ask(sites)
    assert torch.equal(source.get_state(), before)
    assert len({tuple(draw.tolist()) for draw in random[1]}) > 1
    for i in range(3):
        alone_erased, alone_random = ask(sites[i : i + 1])
        assert torch.equal(alone_erased[0], erased[i])
        assert torch.equal(alone_random[0], random[i])


@dataclass(frozen=True, kw_only=True)
class _Own(ModularAddition):
    """Whatever the network above answers to most inputs."""

    name: ClassVar[str] = "own"

    def solve(self, inputs: Inputs) -> Int[Tensor, "batch answer"]:
        subject = random_subject(make_task("modular_addition", {"p": P}), seed=3, scale=3.0)
        logits = forward(subject.params, self.encode(inputs), subject.config).logits
        return logits[:, -1:].argmax(-1)


# ---------------------------------------------------------------------- asking


@pytest.mark.parametrize(
    "where",
    [
        *("hook_embed@1", "blocks.0.hook_resid_mid@2", "blocks.1.hook_resid_post@2"),
        *("blocks.1.attn.hook_z[1]@2", "blocks.0.attn.hook_v[0]@1", "blocks.0.mlp.hook_post@2"),
    ],
)
def test_maps_are_made_where_and_only_where_they_belong(where: str) -> None:
    task = make_task("modular_addition", {"p": P})
    subject = random_subject(task, seed=1, n_layers=2, scale=3.0)
    at = site(where, subject)
    width = width_of(subject.config, at.hook)
    made = AffineMap(
        torch.randn(width, width, generator=generator(1), dtype=torch.float64),
        torch.randn(width, generator=generator(2), dtype=torch.float64),
    )

    def edit(activation: Tensor) -> Tensor:
        edited = activation.clone()
        index = (slice(None), at.position, *([] if at.head is None else [at.head]))
        edited[index] = activation[index] @ made.matrix.float() + made.offset.float()
        return edited

    logits = forward(subject.params, task.encode(DOMAIN), subject.config, edits={at.hook: edit})
    given = logits.logits[:, -1].argmax(-1)
    identity = AffineMap(torch.eye(width), torch.zeros(width))
    right = answers_under(subject, DOMAIN, [(at, made), (at, identity)])
    assert torch.equal(right[0], given == ANSWER)
    plain = forward(subject.params, task.encode(DOMAIN), subject.config).logits[:, -1].argmax(-1)
    assert torch.equal(right[1], plain == ANSWER)
    assert not torch.equal(plain, given)  # the map matters


def test_an_answer_is_right_where_all_its_tokens_are() -> None:
    task = make_task("digit_addition", {"n_digits": 1})
    config = ModelConfig(
        n_layers=1,
        n_heads=1,
        d_model=2,
        d_head=2,
        d_mlp=0,
        d_vocab=12,
        d_vocab_out=12,
        n_ctx=task.n_ctx,
        unembed_bias=True,
    )
    always_one = zeros(config, b_U=torch.eye(12)[1])
    subject = Subject(params=always_one, config=config, task=task)
    inputs = task.domain()
    identity = AffineMap(torch.eye(2), torch.zeros(2))
    right = answers_under(subject, inputs, [(site("hook_embed@0", subject), identity)])
    # Ones digit 1 for the sums 1 and 11, carry 1 from 10 on.
    assert torch.equal(right[0], inputs.sum(1) == 11)
    assert int(right.sum()) == 8


def test_cells_come_back_in_their_order_whatever_the_sites() -> None:
    task = make_task("modular_addition", {"p": P})
    subject = random_subject(task, seed=2, n_layers=2, scale=3.0)
    wheres = ["blocks.1.hook_resid_post@2", "hook_embed@1", "blocks.0.hook_resid_mid@2"]
    maps = []
    for i in range(12):
        matrix = torch.randn(8, 8, generator=generator(i))
        maps.append((site(wheres[i % 3], subject), AffineMap(matrix, torch.zeros(8))))
    together = answers_under(subject, DOMAIN, maps)
    alone = torch.cat([answers_under(subject, DOMAIN, [one]) for one in maps])
    assert torch.equal(together, alone)
    grouped = rearrange(alone, "(turn where) n -> turn where n", where=3)
    assert len({tuple(row.tolist()) for row in grouped.flatten(0, 1)}) > 3


def test_a_map_of_another_width_is_refused() -> None:
    made = AffineMap(torch.eye(3), torch.zeros(3))
    with pytest.raises(HookError, match="the site holds 31 features"):
        answers_under(ADDER, DOMAIN, [(site("hook_embed@0"), made)])
