"""What a person sees of a session in the terminal. Foreign text is escaped; no torch is needed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from apps.terminal import out, table
from workbench import config
from workbench.finding import finding_to_dict
from workbench.session.session import Session
from workbench.session.verifying import Verified

if TYPE_CHECKING:
    from workbench.session.differing import Change
    from workbench.session.replaying import Replayed

INTEGRITY = "Digests show that the file is whole, not who wrote it."
STYLES = {"holds": "green", "drifted": "bold red", "cannot run": "bold yellow"}


def show(session: Session) -> None:
    """Network, findings beside their controls, notes, and what it was made with."""
    console, made = out(), session.manifest
    console.print(escape(headline(session)), style="bold")
    console.print(f"session {made.id[:12]}, saved {made.created}, {session.archive.size:,} bytes")
    console.print(escape("made with " + ", ".join(f"{k} {v}" for k, v in made.made_with.items())))
    if made.parent is not None:
        console.print(f"made from session {made.parent[:12]}")
    console.print(f"checkpoints: {_listed(session.steps)}")
    rows: list[list[Any]] = []
    for record in session.records:
        for finding in record.findings:
            where = f"step {record.step}"
            rows.append([finding.id, float(finding.value), where, finding.verdict])
            rows += [[f"  {c.name}", float(c.value), "", ""] for c in finding.controls]
    if rows:
        heads = ["finding, then its controls", "value", "of", "verdict"]
        console.print(table(heads, rows, foldable=0))
    else:
        console.print("no findings")
    for note in session.notebook.notes:
        console.print(f"note of {note.created}:")
        console.print(note.text, markup=False, soft_wrap=True)
    console.print(
        f"Nothing was run, and nothing is known of who wrote this. Replay it: "
        f"workbench session replay {escape(str(session.path))}",
        soft_wrap=True,
    )


def headline(session: Session) -> str:
    """Task, shape and how it was trained, in one line."""
    network, shape = session.network, session.network.shape
    task = ", ".join(f"{key} {value}" for key, value in network.task.items() if key != "name")
    layers = f"{shape.n_layers} {'layer' if shape.n_layers == 1 else 'layers'}"
    made = "imported" if network.seed is None else f"trained here, seed {network.seed}"
    return f"{network.task.get('name')} ({task}): {layers}, width {shape.d_model}, {made}"


def told(session: Session) -> dict[str, Any]:
    """A session as JSON, without its arrays."""
    return {
        "manifest": session.manifest.model_dump(),
        "network": session.network.model_dump(),
        "checkpoints": session.steps,
        "records": [
            {
                "id": record.id,
                "kind": record.kind,
                "parameters": record.parameters,
                "step": record.step,
                "findings": [finding_to_dict(finding) for finding in record.findings],
                "seconds": record.seconds,
            }
            for record in session.records
        ],
        "notebook": session.notebook.model_dump(),
    }


def show_verified(verified: Verified) -> None:
    """Every member, and what the check means."""
    rows = [[member.path, member.size, member.what] for member in verified.members]
    out().print(table(["member", "bytes", "holds"], rows, foldable=2))
    out().print(f"whole: every digest and every bound was checked. {INTEGRITY}")


def verified_document(verified: Verified) -> dict[str, Any]:
    """The same for a program."""
    return {
        "whole": True,
        "id": verified.manifest.id,
        "bytes": verified.size,
        "members": [
            {"path": member.path, "bytes": member.size, "what": member.what}
            for member in verified.members
        ],
    }


def show_replayed(session: Session, replayed: "Sequence[Replayed]") -> None:
    """One row per question, with what drifted most."""
    console = out()
    if not replayed:
        console.print("no findings to replay")
        return
    rows = []
    for one in replayed:
        found = ", ".join(finding.id for finding in one.record.findings) or "no finding"
        rows.append([one.record.kind, found, f"step {one.record.step}", one.state])
    console.print(table(["asked", "findings", "of", "replayed"], rows, foldable=1))
    for one in replayed:
        if one.why:
            style = STYLES[one.state]
            console.print(
                f"[{style}]{one.state}[/{style}] {escape(f'{one.record.kind}: {one.why}')}"
            )
    held = sum(one.state == "holds" for one in replayed)
    console.print(f"{held} of {len(replayed)} hold, in {sum(o.seconds for o in replayed):.1f} s")


def replayed_document(session: Session, replayed: "Sequence[Replayed]") -> dict[str, Any]:
    """The same for a program, with every difference."""
    return {
        "session": session.id,
        "holds": all(one.state == "holds" for one in replayed),
        "replayed": [
            {
                "record": one.record.id,
                "kind": one.record.kind,
                "step": one.record.step,
                "findings": [finding.id for finding in one.record.findings],
                "state": one.state,
                "why": one.why,
                "compared": None if one.comparison is None else one.comparison.n,
                "closeness": None if one.comparison is None else one.comparison.closeness,
                "differences": []
                if one.comparison is None
                else [config.to_dict(difference) for difference in one.comparison.differences],
                "seconds": one.seconds,
            }
            for one in replayed
        ],
    }


def show_changes(changes: "Sequence[Change]") -> None:
    """One row per thing that differs."""
    if not changes:
        out().print("the two hold the same")
        return
    rows = [[one.where, one.what, one.first, one.second] for one in changes]
    out().print(table(["where", "what", "first", "second"], rows, foldable=3))


def _listed(steps: Sequence[int], most: int = 8) -> str:
    if len(steps) <= most:
        return ", ".join(f"step {step}" for step in steps)
    return f"{len(steps)}, from step {steps[0]} to step {steps[-1]}"
