"""Intervals of controls: made as the probe's own is, of the same inputs."""

from dataclasses import replace

import pytest
import torch
from jaxtyping import Bool
from torch import Tensor

from probes.analyses.probe import _line_of, row_of
from probes.design import Design
from probes.measure import Measured, measure
from probes.method import methods
from probes.rows import NONE, Row
from probes.setting import Setting, make_setting
from probes.sites import ProbeSite, make_sites, read_activations
from probes.summary import Line, summarise
from probes.tables import control_rows, probe_rows
from tests.unit.probe_rows import row
from tests.unit.probing_one import RESID, SMALL, spec_of
from workbench.stats import wilson_interval

SPEC = spec_of("answer", hooks=(RESID[2],), positions=(2,), seeds=(0, 1), erase=False)
# Of the label sets: the variable, two control tasks, and shuffled twice.


@pytest.fixture(scope="module")
def setting() -> Setting:
    return make_setting(SMALL, SPEC)


@pytest.fixture(scope="module")
def sites() -> list[ProbeSite]:
    config = SMALL.config
    return list(make_sites(config, hooks=SPEC.hooks or (), positions=(2,), n_pos=3))


@pytest.fixture(scope="module")
def measured(setting: Setting, sites: list[ProbeSite]) -> Measured:
    tokens = setting.examples.tokens
    x = read_activations(SMALL.params, tokens, SMALL.config, sites, dtype=torch.float64)
    design = Design(x, setting.splits.train.to(x))
    ridge = methods.get("ridge")
    return measure(ridge(), (1.0,), design, setting.targets["answer"], setting.splits)


def every_second(measured: Measured) -> Bool[Tensor, "split site label n"]:
    """Every second input read rightly, whatever the split and the labels."""
    return (torch.arange(measured.correct.shape[-1]) % 2 == 0).expand_as(measured.correct).clone()


def scored(measured: Measured, setting: Setting, correct: Tensor) -> Measured:
    """As if these inputs had been read rightly."""
    held = setting.splits.held_out
    shares = [correct[split][:, :, held[split]].double().mean(-1) for split in range(len(correct))]
    return replace(measured, correct=correct, accuracies=torch.stack(shares))


def pooled(rows: list[Row], control: str) -> list[Row]:
    return [row for row in rows if row.control == control and "/" not in row.split]


def test_where_a_control_reads_what_the_probe_reads_its_interval_is_the_probes(
    setting: Setting, sites: list[ProbeSite], measured: Measured
) -> None:
    alike = scored(measured, setting, every_second(measured))
    rows = probe_rows(setting, sites, "answer", "ridge", alike)
    (own,) = pooled(rows, NONE)
    assert own.low is not None and own.high is not None and own.low < own.value < own.high
    for control in ("control_task", "shuffled"):
        found = pooled(rows, control)
        assert [one.draw for one in found] == [0, 1]
        for one in found:
            assert (one.low, one.high) == pytest.approx((own.low, own.high), abs=1e-12)
    (noise,) = control_rows(setting, sites, "answer", "ridge", "norm_matched", alike)
    assert (noise.low, noise.high) == pytest.approx((own.low, own.high), abs=1e-12)


def test_where_a_control_reads_nothing_its_interval_is_wilsons_over_groups(
    setting: Setting, sites: list[ProbeSite], measured: Measured
) -> None:
    correct = every_second(measured)
    correct[:, :, 1] = False
    rows = probe_rows(setting, sites, "answer", "ridge", scored(measured, setting, correct))
    first, second = pooled(rows, "control_task")
    groups = setting.splits.groups[setting.splits.held_out.any(0)]
    high = wilson_interval(0, len(set(groups.tolist())))[1]
    assert (first.value, first.low) == (0.0, 0.0)
    assert first.high == pytest.approx(high)
    assert second.value > 0 and second.low is not None and second.low <= second.value


def line_of(*controls: Row) -> Line:
    (line,) = summarise([row(NONE, 0.7, low=0.6, high=0.8, p=0.01), *controls])
    return line


def test_a_line_has_the_mean_of_its_draws_ends() -> None:
    line = line_of(
        row("control_task", 0.2, draw=0, low=0.125, high=0.25),
        row("control_task", 0.4, draw=1, low=0.375, high=0.5),
        row("norm_matched", 0.1, low=0.0, high=0.2),
    )
    assert (line.control_low, line.control_high) == (0.25, 0.375)
    assert (line.norm_matched_low, line.norm_matched_high) == (0.0, 0.2)
    assert (line.shuffled_low, line.random_subspace_high) == (None, None)
    assert _line_of(row_of(line)) == line


def test_a_draw_without_an_interval_leaves_none() -> None:
    """Rows of a batch that was computed before there were intervals."""
    line = line_of(row("shuffled", 0.2, draw=0, low=0.1, high=0.3), row("shuffled", 0.2, draw=1))
    assert line.shuffled_accuracy == pytest.approx(0.2)
    assert (line.shuffled_low, line.shuffled_high) == (None, None)


def test_the_interval_of_untrained_networks_is_over_networks() -> None:
    """Mean .41, sd .01, t of 2 degrees at .975 4.3027: .41 -+ 4.3027 * .01 / sqrt(3)."""
    line = line_of(*(row("untrained", x, draw=i) for i, x in enumerate((0.40, 0.41, 0.42))))
    assert line.untrained_interval == pytest.approx((0.41 - 0.024841, 0.41 + 0.024841), abs=1e-6)
    assert line_of(row("untrained", 0.4)).untrained_interval is None
    assert line_of().untrained_interval is None
    wide = line_of(row("untrained", 0.1, draw=0), row("untrained", 0.9, draw=1))
    assert wide.untrained_interval == (0.0, 1.0)  # no share lies outside


def test_a_row_from_before_there_were_intervals_is_read() -> None:
    told = row_of(line_of(row("control_task", 0.2, low=0.1, high=0.3)))
    old = {name: told[name] for name in told if not name.endswith(("_low", "_high"))}
    old |= {name: told[name] for name in ("erased_low", "erased_high")}
    line = _line_of(old)
    assert line.control_accuracy == 0.2 and line.control_low is None
