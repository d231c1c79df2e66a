"""From findings to a verdict: one rule for every mechanism."""

from collections.abc import Mapping

from workbench.finding import Support, Verdict

DOES_TASK, NEARLY_DOES_TASK = 0.99, 0.9


def judge(
    accuracy: float, supports: Mapping[str, Support], *, inputs: str = "all inputs"
) -> tuple[Verdict, str]:
    """The verdict and why. `supports` maps each finding's id to its support.

    A network that is right on less than 90 % of the inputs does not do its task: nothing is
    identified. Otherwise `identified` needs 99 % and every applicable finding; `partial` needs at
    least half of them; anything else is `not identified`.
    """
    if accuracy < NEARLY_DOES_TASK:
        return "not identified", f"it does not do its task: right on {accuracy:.2%} of {inputs}"
    applicable = {id: verdict for id, verdict in supports.items() if verdict != "not applicable"}
    failed = [id for id, verdict in applicable.items() if verdict != "supported"]
    if not failed and applicable and accuracy >= DOES_TASK:
        return "identified", f"all {len(applicable)} findings are supported beside their controls"
    n_held = len(applicable) - len(failed)
    count = f"{n_held} of {len(applicable)} findings are supported"
    why = f"{count}; not: {', '.join(failed)}" if failed else f"{count}; accuracy {accuracy:.2%}"
    return ("partial" if 2 * n_held >= len(applicable) > 0 else "not identified"), why
