"""The sentence below the switches: what was predicted, what happened, what the control did."""

from apps.web.parts.data import Before
from apps.web.parts.switches import Grid
from apps.web.shell import escaped
from circuits.fourier.parts import frequencies_as_text
from circuits.fourier.switch_controls import OTHER_PARTS, WHERE, SwitchControl
from circuits.fourier.switch_prediction import Prediction
from circuits.fourier.switchboard import Switches
from circuits.fourier.switches import Outcome
from workbench.record import Record


def sentence(
    grid: Grid,
    switches: Switches,
    said: Prediction,
    own: Before,
    found: Outcome,
    controls: tuple[SwitchControl, ...] | None,
    record: Record | None,
) -> str:
    """Markdown of a few short lines; `controls` None while they are computed."""
    n = f"{len(found.right):,}"
    if switches == Switches(ablation=switches.ablation):
        return (
            f"**Nothing is switched.** The network is right on {own.accuracy:.2%} of all {n} "
            "inputs. Take a part away, keep one alone, or turn a plane."
        )
    lines = [
        f"**Predicted:** {predicted(grid, said, own)}",
        f"**What happened:** {_happened(said, own, found)} (all {n} inputs).",
        f"**Controls:** {'...' if controls is None else _controls(said, controls)}",
    ]
    known = _recorded(grid, switches, found, own, record)
    return "  \n".join([*lines, known] if known else lines)


def predicted(grid: Grid, said: Prediction, own: Before) -> str:
    """What the formula says, in words."""
    if said.kind == "none":
        return "nothing; the formula does not say what a single head brings."
    if said.kind == "chance":
        return f"nothing is left to answer with: accuracy falls to chance, 1 in {grid.order}."
    lost = f"frequencies {frequencies_as_text(said.lost)}"
    lost = lost.replace("frequencies", "frequency") if len(said.lost) == 1 else lost
    gone = (
        f"; {lost} vanish{'es' if len(said.lost) == 1 else ''} from the logits" if said.lost else ""
    )
    margin = (
        f" The formula's margin is {said.margin:.2f} nats, with everything on {own.margin:.2f}."
        if any(row.key for row in grid.rows)
        else " No frequency is key in the logits; those of the embeddings stand in."
    )
    if len(said.offsets) > 1:
        return f"{len(said.offsets)} answers are equally good to the formula{gone}."
    s = said.offsets[0]
    if s == 0:
        return f"every answer stays as it is{gone}.{margin}"
    step = s if s <= grid.order // 2 else s - grid.order
    moved = f"times g to the {step}" if grid.logarithms else f"by {step:+d}, modulo {grid.order}"
    return f"every answer moves {moved}{gone}.{margin}"


def _happened(said: Prediction, own: Before, found: Outcome) -> str:
    parts = [f"right before on {_percent(own.accuracy)}, after on {_percent(found.accuracy)}"]
    if said.kind == "answers" and found.share is not None:
        parts.append(f"as predicted on **{_percent(found.share)}**")
    if found.lost is not None:
        parts.append(f"**{_percent(found.lost)}** of the amplitude of what should vanish is gone")
    return "; ".join(parts)


def _controls(said: Prediction, controls: tuple[SwitchControl, ...]) -> str:
    told = []
    for control in controls:
        accuracy = _mean([one.accuracy for one in control.draws])
        words = f"{WHERE[control.name]}: right on {_percent(accuracy)}"
        shares = [one.share for one in control.draws if one.share is not None]
        if said.kind == "answers" and said.offsets != (0,) and shares:
            words += f", as predicted on {_percent(_mean(shares))}"
        lost = [one.lost for one in control.draws if one.lost is not None]
        if lost:
            words += f", {_percent(_mean(lost))} of the amplitude gone"
        told.append(words)
    if not any(one.name == OTHER_PARTS for one in controls):
        told.append("there are not as many other parts to compare with")
    return "; ".join(told) + "."


def _recorded(
    grid: Grid, switches: Switches, found: Outcome, own: Before, record: Record | None
) -> str:
    """The number of the finding that has the same switches, from its record."""
    if record is None:
        return ""
    embedded = {row.frequency for row in grid.rows if row.embedded}
    key = {row.frequency for row in grid.rows if row.key}
    fall = own.accuracy - found.accuracy
    tests = {
        "sufficiency": (set(switches.embedding_only or ()) == embedded, found.accuracy),
        "necessity": (set(switches.embedding_removed) == embedded, fall),
        "sufficiency_logits": (set(switches.logits_only or ()) == key, found.accuracy),
        "necessity_logits": (set(switches.logits_removed) == key, fall),
    }
    alone = [name for name, (is_it, _) in tests.items() if is_it]
    if len(alone) != 1 or switches.rotated or switches.neurons_ablated or switches.heads_ablated:
        return ""
    for finding in record.findings:
        if finding.id == alone[0]:
            return (
                f"**The record** of this test, {escaped(finding.id)}, says {finding.value:.4f}; "
                f"here it is {tests[alone[0]][1]:.4f}."
            )
    return ""


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _percent(share: float) -> str:
    """One decimal, and never a negative zero."""
    return f"{round(share, 3) + 0.0:.1%}"
