"""A variable across training, on a run whose stages are built by hand (tests.unit.staged_run)."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probes import across_training
from probes.across_training import follow_variable
from probes.align import fit_das
from probes.causal import Erased
from probes.probing import TWINS
from probes.sites import ProbeSite
from probes.training_times import AcrossTraining, Kind
from tests.unit.staged_run import (
    ADDER,
    DAS_STEPS,
    MID,
    POST,
    RANK,
    SITES,
    SQUARES,
    STAGES,
    P,
    follow,
    random_network,
    squares_run,
    stages,
    write_run,
)
from workbench.errors import ProbeError, RunError, UnknownName
from workbench.params import init_params
from workbench.progress import finish
from workbench.run import Run, RunConfig, open_run
from workbench.run_writer import RunWriter
from workbench.subject import subject_of
from workbench.transformer import forward


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return squares_run(tmp_path_factory.mktemp("across") / "squares")


@pytest.fixture(scope="module")
def found(run: Run) -> AcrossTraining:
    return follow(run)


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> AcrossTraining:
    """A run that learns another function, two-to-one as a², of a: never a²."""
    dealt = torch.randperm(P, generator=torch.Generator().manual_seed(1))
    path = tmp_path_factory.mktemp("across") / "control"
    return follow(write_run(path, stages(dealt**2 % P)), steps=STAGES[1:])


def test_a_squared_is_decodable_before_it_is_used(found: AcrossTraining) -> None:
    """By construction; the stage that adds nothing to the embeddings has it at both sites."""
    assert found.decodable_from == 10
    assert found.used_from == 20
    assert found.generalises_from == 20
    assert found.times(MID, "new_values").holds == 10
    assert found.times(MID, "swapped").holds == 20
    assert found.kinds == ("new_inputs", "new_values", "erased", "swapped")
    assert found.n_classes == 16
    assert found.rank == RANK


def test_swaps_past_the_mlp_change_nothing(found: AcrossTraining) -> None:
    """The unembedding does not read where a² lies; only the answer it has become."""
    assert found.times(POST, "swapped") == (None, None, None)


def test_what_each_stage_answers(run: Run, found: AcrossTraining) -> None:
    """Counted on the run's own split; the whole network is right everywhere."""
    split = run.split()
    assert split is not None and split.train is not None and split.held_out is not None
    for checkpoint in found.checkpoints:
        subject = subject_of(run, step=checkpoint.step)
        for inputs, level in (
            (split.train, checkpoint.train_accuracy),
            (split.held_out, checkpoint.held_out_accuracy),
            (SQUARES.domain(), checkpoint.accuracy),
        ):
            logits = forward(subject.params, SQUARES.encode(inputs), subject.config).logits
            a, b = inputs.T
            share = (logits[:, -1].argmax(-1) == (a * a + b) % P).double().mean()
            assert level is not None and level.exhaustive and level.n == len(inputs)
            assert level.low == level.value == level.high == pytest.approx(float(share), abs=1e-12)
    assert found.checkpoints[0].accuracy.value < 0.1  # chance is 1/31
    assert found.checkpoints[1].accuracy.value < 0.1
    assert found.checkpoints[2].accuracy.value == 1


def test_erasing_costs_what_random_directions_do_not(found: AcrossTraining) -> None:
    """15 of 20 dimensions go, at the site in which the answer is not yet: it is lost for all but
    luck. Random directions take the answer as well, which the control shows."""
    (erased,) = [
        one for one in found.checkpoints[2].measures if (one.site, one.kind) == (MID, "erased")
    ]
    assert erased.level.value < 0.2
    assert set(erased.controls) == {"random_erased"}


def test_erasures_ask_about_every_value(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 60 inputs of the domain have a of 0 and 1, and the first 60 held out of it a few
    more. 60 at random miss a given a of 31 with probability (30/31)^60 = .14: 4 of 31."""
    told: list[Tensor] = []
    original = across_training.erase_and_ask

    def listen(*args: Any, **options: Any) -> Any:
        told.append(args[4])
        return original(*args, **options)

    monkeypatch.setattr(across_training, "N_ASKED", 60)
    monkeypatch.setattr(across_training, "erase_and_ask", listen)
    found = follow(run, steps=[20], das=False)
    assert found.series(MID, "erased")[0].level.n == 60
    assert len(told) == 2  # checkpoint 0, for the control, and the one followed
    assert torch.equal(*told)
    a, b = told[0].T
    assert len(a.unique()) > 20 and len(b.unique()) > 20
    assert a.double().mean() == pytest.approx(15, abs=5)  # four deviations of 9 / sqrt(60)


@pytest.mark.parametrize(("cost", "relabelled"), [(0.1, True), (0.9, False)])
def test_erasures_stand_beside_relabelled_ones_where_random_ones_do_not_decide(
    run: Run, monkeypatch: pytest.MonkeyPatch, cost: float, relabelled: bool
) -> None:
    """Answers after each erasure written by hand: of 20, random ones leave 16 and 18, relabelled
    ones 8 and 4."""

    def answered(*shares: float) -> Tensor:
        return torch.stack([torch.arange(20) < round(20 * share) for share in shares])

    def erase(
        subject: Any, sites: Any, design: Any, targets: Any, inputs: Any, **options: Any
    ) -> Any:
        assert len(options["controls"].names) == 3  # a relabelling per seed
        assert design.x.dtype == torch.float64
        left, none = answered(0.4, 0.2), answered(0.5)[:0]
        return Erased(
            intact=answered(1.0)[0],
            erased=answered(cost, cost),
            random=[answered(0.8, 0.9), none],
            control=[left if relabelled else none, none],
            rank=torch.tensor([15, 15]),
        )

    monkeypatch.setattr(across_training, "N_ASKED", 20)
    monkeypatch.setattr(across_training, "erase_and_ask", erase)
    found = follow(run, steps=[20], das=False)
    (mid,), (post,) = (found.series(site, "erased") for site in (MID, POST))
    assert mid.level.value == pytest.approx(cost)
    assert mid.controls["random_erased"].value == pytest.approx(0.85)
    if relabelled:
        assert mid.controls["relabelled"].value == pytest.approx(0.3)
    else:
        assert set(mid.controls) == {"random_erased"}
    # Every erasure of as many directions is the same one: nothing to be below.
    assert post.controls == {"random_erased": post.level}
    assert not post.above


def test_another_function_of_a_is_never_a_squared(control: AcrossTraining) -> None:
    """It generalises to nothing of this task either."""
    assert control.decodable_from is None
    assert control.used_from is None
    assert control.generalises_from is None
    for site in control.sites:
        for kind in control.kinds:
            assert control.times(site, kind).holds is None, (site, kind)


def test_networks_that_were_never_trained_hold_nothing(tmp_path: Path) -> None:
    random = write_run(tmp_path / "random", {step: random_network(step) for step in STAGES})
    never = follow(random, das=False)
    assert (never.decodable_from, never.used_from, never.generalises_from) == (None, None, None)
    for site in never.sites:
        for kind in never.kinds:
            assert never.times(site, kind).holds is None, (site, kind)


def test_any_function_of_one_token_is_readable_in_a_wide_enough_network(tmp_path: Path) -> None:
    """Each token a dimension of its own: a² of new inputs is read off, and so is any relabelling.
    Of new values it is not."""
    config = replace(ADDER.config, d_model=2 * P, d_mlp=4)
    params = init_params(config, torch.Generator().manual_seed(0))
    params["embed.W_E"] = torch.eye(2 * P)
    # Attention, uniform over both tokens, copies what is embedded.
    for name in ("W_V", "W_O"):
        params[f"blocks.0.attn.{name}"].zero_()
    with RunWriter.open(
        tmp_path / "wide",
        RunConfig(task=SQUARES.to_dict(), model=config, recipe=None, seed=3, train_fraction=0.4),
    ) as writer:
        writer.save_checkpoint(0, params)
        writer.commit(complete=True, stopped="finished")
    at_a = ProbeSite(hook="blocks.0.hook_resid_pre", position=0)
    found = finish(
        follow_variable(open_run(tmp_path / "wide"), "a_squared", sites=[at_a], das=False)
    )
    by_kind = {one.kind: one for one in found.checkpoints[0].measures}
    read, unseen = by_kind["new_inputs"], by_kind["new_values"]
    assert read.level.value == 1 and read.alone and not read.above
    assert unseen.level.value < 0.2 and not unseen.alone  # 16 classes; chance is 1/16
    assert found.kinds == ("new_inputs", "new_values", "erased")
    assert found.used_from is None and found.rank is None


def test_interchange_is_that_of_the_search(run: Run, found: AcrossTraining) -> None:
    subject = subject_of(run, step=20)
    alone = finish(
        fit_das(
            *(subject.params, subject.config, subject.task, "a_squared", SITES, [RANK], [0]),
            steps=DAS_STEPS,
        )
    )
    for i, site in enumerate(found.sites):
        (ours,) = [
            one
            for one in found.checkpoints[2].measures
            if (one.site, one.kind) == (site, "swapped")
        ]
        # Means of the same zeros and ones.
        assert ours.level.value == pytest.approx(float(alone.accuracy()[i, 0].mean()), abs=1e-12)
        assert ours.controls["identity"].value == pytest.approx(
            float(alone.identity.double().mean()), abs=1e-12
        )
        assert set(ours.controls) == {"arbitrary", "random", "identity", "untrained"}


def test_the_untrained_network_is_checkpoint_0(run: Run, found: AcrossTraining) -> None:
    first, *later = found.series(MID, "new_inputs")
    for one in (first, *later):
        assert one.controls["untrained"] == first.level
    without = follow(run, steps=[20, 10], das=False)
    assert without.steps == [10, 20]
    assert without.series(MID, "new_inputs")[0].controls["untrained"] == first.level


def test_without_checkpoint_0_untrained_is_the_mean_of_fresh_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each followed by itself; the interval holds all of theirs. Two of them, for speed."""
    monkeypatch.setattr(across_training, "N_UNTRAINED", 2)
    short: dict[str, Any] = {"das_steps": 3, "seeds": (0,)}
    late = follow(write_run(tmp_path / "late", {20: stages(torch.arange(P))[20]}), **short)
    fresh = [
        follow(write_run(tmp_path / str(seed), {0: random_network(TWINS + seed)}), **short)
        for seed in range(2)
    ]
    kinds: list[Kind] = ["new_inputs", "new_values", "swapped"]
    for site, kind in itertools.product(late.sites, kinds):
        level = late.series(site, kind)[0].controls["untrained"]
        one, other = (each.series(site, kind)[0].level for each in fresh)
        # Sums of the same numbers; the weights written are the float32 ones drawn.
        assert level.value == pytest.approx((one.value + other.value) / 2, abs=1e-12)
        assert level.low == pytest.approx(min(one.low, other.low), abs=1e-12)
        assert level.high == pytest.approx(max(one.high, other.high), abs=1e-12)
        if kind == "new_inputs":
            assert one.value != other.value


def test_intervals_of_new_values_are_over_values(found: AcrossTraining) -> None:
    """Inputs of one value are read alike: 24 held-out values, and not their 744 inputs, are the
    examples. Of three quarters of 24 a 95 % interval is 4 * sqrt(.75 * .25 / 24) = .35 wide; of 744
    independent inputs it would be .06."""
    level = found.series(MID, "new_values")[1].level
    assert level.n > 500
    assert 0.15 < level.high - level.low < 0.5


def test_interchange_needs_counterfactuals(tmp_path: Path) -> None:
    """Said before anything is measured; without interchange the variable can be followed."""
    addition = write_run(tmp_path / "addition", {5: ADDER.params}, task=ADDER.task)
    steps = follow_variable(addition, "wraps")
    with pytest.raises(ProbeError, match=r"what the answer would be with another wraps is not"):
        next(steps)
    found = finish(follow_variable(addition, "wraps", das=False))
    assert found.kinds == ("new_inputs", "erased")  # two tokens decide it
    assert found.steps == [5]


def test_what_cannot_be_followed(run: Run) -> None:
    with pytest.raises(UnknownName, match=r"a_square.*did you mean 'a_squared'"):
        finish(follow_variable(run, "a_square"))
    with pytest.raises(RunError, match=r"no checkpoint at step 15; there are: 0, 10, 20$"):
        finish(follow_variable(run, "a_squared", steps=[0, 15]))
    with pytest.raises(
        ProbeError, match=r"^no checkpoint to follow in .*; train it, or name steps$"
    ):
        finish(follow_variable(run, "a_squared", steps=[]))
