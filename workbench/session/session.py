"""A session that was opened: what it claims at once, weights and arrays only when asked for.

    session = open_session("adds-on-a-circle.workbench")
    for finding in session.findings: print(finding.verdict, finding.claim)

Opening checks the archive's structure, its manifest and `session.json`, and reads no array, so that
a session of hundreds of checkpoints opens at once. Each member is checked when it is read. Nothing
in a session is code, and nothing here writes. torch is imported with the first weights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import SessionError
from workbench.finding import Finding
from workbench.record import Record
from workbench.session.archive import Archive, open_archive
from workbench.session.schema import (
    TRAINING,
    Manifest,
    Network,
    Notebook,
    arrays_path,
    weights_path,
)

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.params import Params


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One person's findings about one network, as they were saved."""

    archive: Archive

    @property
    def path(self) -> Path:
        """The file."""
        return self.archive.path

    @property
    def id(self) -> str:
        """A random number that names this session."""
        return self.manifest.id

    @property
    def manifest(self) -> Manifest:
        """Format, versions, members."""
        return self.archive.manifest

    @property
    def network(self) -> Network:
        """Task, shape and training."""
        return self.archive.document.network

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints in the file, ascending."""
        return [one.step for one in self.archive.document.checkpoints]

    @property
    def records(self) -> tuple[Record, ...]:
        """What was asked, and what came out, in the order in which it was saved."""
        return self.archive.document.records

    @property
    def findings(self) -> list[Finding]:
        """Every finding of every record."""
        return [finding for record in self.records for finding in record.findings]

    @property
    def notebook(self) -> Notebook:
        """Notes, marks on the circuit graph, and what was on the screen."""
        return self.archive.document.notebook

    def params(self, step: int | None = None) -> "Params":
        """The weights at a checkpoint (the last when None), every one checked.

        Raises `SessionError` or `WeightsError`.
        """
        from workbench.params import check_params
        from workbench.session.tensor_members import tensor_headers
        from workbench.tensor_files import tensors_from_bytes, weights_digest

        step = self.steps[-1] if step is None else step
        known = {one.step: one for one in self.archive.document.checkpoints}
        if step not in known:
            there = ", ".join(map(str, self.steps))
            raise SessionError(f"{self.path} has no checkpoint at step {step}; there are: {there}")
        data, where = self.archive.read(weights_path(step)), f"{self.path}: {weights_path(step)}"
        tensor_headers(data, where=where)  # strictly, as the library takes more than we write
        params = tensors_from_bytes(data, where=where)
        check_params(params, self.network.shape)
        if weights_digest(params) != known[step].weights_sha256:
            raise SessionError(
                f"{self.path}: the weights at step {step} are not those that its findings speak "
                "of; ask for the file again"
            )
        return params

    def arrays(self, record: Record) -> "dict[str, Tensor]":
        """The arrays of a record; none where it has none. Raises `SessionError`."""
        from workbench.session.tensor_members import check_tensors
        from workbench.tensor_files import tensors_from_bytes

        if record.arrays is None:
            return {}
        name = arrays_path(record.id)
        data = self.archive.read(name)
        check_tensors(data, record.arrays.tensors, where=f"{self.path}: {name}")
        return tensors_from_bytes(data, where=f"{self.path}: {name}")

    def metrics(self) -> list[dict[str, Any]]:
        """The rows recorded during training, in order; none where nothing is known of it."""
        from workbench.session.training_rows import decode_rows
        from workbench.session.verifying import check_training

        rows, where = self.archive.document.training_rows, f"{self.path}: {TRAINING}"
        if rows is None:
            return []
        data = self.archive.read(TRAINING)
        check_training(data, rows, where=where)
        return decode_rows(data, where=where)


def open_session(path: Path | str) -> Session:
    """Open a session file. Raises `SessionError`: what is wrong, and how to mend it."""
    return Session(archive=open_archive(path))
