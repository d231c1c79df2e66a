"""What a session file holds: version 1. Strict, bounded models; nothing here touches a file.

A session is one ZIP, extension `.workbench`:

    manifest.json                       the format, who made it with what, and every member's digest
    session.json                        the network's making, records with findings, notes, marks
    arrays/weights-000400.safetensors   a checkpoint, of every one that a record speaks of
    arrays/training.safetensors         what training recorded, where it did
    arrays/<record id>.safetensors      the arrays of a record

A published version never changes: what a newer Workbench needs to say besides makes a new version,
with a reader of its own, and the readers of older ones stay.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, StringConstraints, model_validator

from workbench import config
from workbench.model_config import ModelConfig
from workbench.record import Checkpoint, Record
from workbench.session import limits
from workbench.strict import (
    LABEL,
    Digest,
    Identifier,
    Label,
    Moment,
    Name,
    Prose,
    Strict,
    plain_line,
)

FORMAT = "workbench-session"
SCHEMA_VERSION = 1
OLDEST_READER = 1
"""The oldest schema version whose readers can read what is written now."""

MANIFEST, SESSION, ARRAYS = "manifest.json", "session.json", "arrays"
TRAINING = f"{ARRAYS}/training.safetensors"

MemberPath = Annotated[
    str,
    StringConstraints(
        pattern=r"^(session\.json|arrays/(weights-[0-9]{6,9}|training|[a-z][a-z0-9_]{0,39}"
        r"-[0-9a-f]{16})\.safetensors)$"
    ),
]


class Member(Strict):
    """One file in the archive."""

    path: MemberPath
    size: Annotated[int, Field(ge=0)]
    sha256: Digest


class Manifest(Strict):
    """What the archive is, and what must be in it: every other member, and nothing else."""

    format: Literal["workbench-session"]
    schema_version: Literal[1]
    oldest_reader: Annotated[int, Field(ge=1)]
    id: Identifier
    """Of this session; a saved change of it gets another."""
    parent: Identifier | None
    """Of the session that this one was made from."""
    created: Moment
    made_with: Annotated[dict[Name, Label], Field(max_length=20)]
    """Versions of the Workbench, Python, torch, numpy and safetensors."""
    members: Annotated[tuple[Member, ...], Field(min_length=1, max_length=4096)]


def in_labels(data: dict[str, Any]) -> dict[str, Any]:
    """The JSON data, if every text in it, keys too, would do as a `Label`. Raises `ValueError`."""
    waiting: list[Any] = [data]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting.extend(one)
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, str):
            if len(one) > LABEL:
                raise ValueError(f"text of {len(one)} characters; at most {LABEL}")
            plain_line(one)
    return data


Settings = Annotated[dict[Name, JsonValue], Field(max_length=100), AfterValidator(in_labels)]
"""What an object was made with, as JSON; its texts are labels, since headlines show them."""


class Network(Strict):
    """What the network is and how it came to be."""

    task: Settings
    """`Task.to_dict()`."""
    model: Annotated[dict[Name, JsonValue], Field(max_length=100)]
    """`ModelConfig` as JSON."""
    recipe: Settings | None
    """The training recipe; None for an imported network."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None
    train_fraction: Annotated[float, Field(gt=0, lt=1)] | None
    random_labels: Annotated[float, Field(ge=0, le=1)]
    source: Annotated[dict[Label, Label | int | float], Field(max_length=100)] | None
    """Where an imported network is from, in its publisher's words."""
    split_sha256: Digest | None
    """Of the training and held-out inputs that the seed gives; None where they are unknown."""

    @property
    def shape(self) -> ModelConfig:
        """The network's shape. Raises `ConfigError`."""
        return config.from_json(ModelConfig, self.model, where="model")


class Note(Strict):
    """What somebody wrote. Text, never markup."""

    text: Prose
    created: Moment


class Group(Strict):
    """Components that somebody put together."""

    name: Label
    nodes: Annotated[tuple[Label, ...], Field(max_length=10_000)]


class Marks(Strict):
    """What somebody wrote on the circuit graph."""

    labels: Annotated[dict[Label, Label], Field(max_length=10_000)] = Field(default_factory=dict)
    """Node, such as `a0.h1`, or edge, such as `a0.h1->m0`, to words."""
    groups: Annotated[tuple[Group, ...], Field(max_length=1000)] = ()
    positions: Annotated[dict[Label, tuple[float, float]], Field(max_length=10_000)] = Field(
        default_factory=dict
    )
    """Node to where it is drawn."""
    pinned: Annotated[tuple[Label, ...], Field(max_length=10_000)] = ()


class Notebook(Strict):
    """What a person adds to a run: notes, marks, what was on the screen, where it came from."""

    parent: Identifier | None = None
    """The session that the run was opened from."""
    notes: Annotated[tuple[Note, ...], Field(max_length=limits.NOTES)] = ()
    marks: Marks = Marks()
    view: Annotated[dict[Name, Label | bool | int | float], Field(max_length=200)] = Field(
        default_factory=dict
    )
    """State of the app's widgets, for whoever opens the session there."""

    @model_validator(mode="after")
    def _notes_are_short(self) -> "Notebook":
        length = sum(len(note.text) for note in self.notes)
        if length > limits.NOTES_TEXT:
            raise ValueError(
                f"notes of {length} characters; at most {limits.NOTES_TEXT} together: shorten them"
            )
        return self


class SessionDocument(Strict):
    """`session.json`."""

    network: Network
    checkpoints: Annotated[tuple[Checkpoint, ...], Field(min_length=1, max_length=4000)]
    """Those whose weights are in the file, ascending by step."""
    training_rows: Annotated[int, Field(ge=0, lt=2**31)] | None
    """Rows of `arrays/training.safetensors`; None where there is no such member."""
    records: Annotated[tuple[Record, ...], Field(max_length=2000)]
    notebook: Notebook

    @model_validator(mode="after")
    def _fits_together(self) -> "SessionDocument":
        steps = [one.step for one in self.checkpoints]
        if steps != sorted(set(steps)):
            raise ValueError("checkpoints must ascend, each step once")
        if len({record.id for record in self.records}) < len(self.records):
            raise ValueError("two records have the same id")
        held = {(one.step, one.weights_sha256) for one in self.checkpoints}
        for record in self.records:
            for one in record.checkpoints:
                if (one.step, one.weights_sha256) not in held:
                    raise ValueError(f"{record.id} speaks of a checkpoint that is not in the file")
        return self

    def member_paths(self) -> list[str]:
        """The members that must be there besides the manifest."""
        paths = [SESSION, *(weights_path(one.step) for one in self.checkpoints)]
        paths += [TRAINING] if self.training_rows is not None else []
        return paths + [arrays_path(one.id) for one in self.records if one.arrays is not None]


def weights_path(step: int) -> str:
    """Name of a checkpoint's member."""
    return f"{ARRAYS}/weights-{step:06d}.safetensors"


def arrays_path(record_id: str) -> str:
    """Name of the member that holds a record's arrays."""
    return f"{ARRAYS}/{record_id}.safetensors"
