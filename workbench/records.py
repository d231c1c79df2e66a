"""Records beside a run: `records/<id>.json`, and `records/<id>.safetensors` for its arrays.

Each is written atomically, the JSON last. A record replaces those of its kind, about the same
weights, that make a finding of the same name: a finding has one number. What is read is checked:
the JSON against its model, the arrays against the JSON.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from workbench.analysis import Analysis, Recorded, record_steps
from workbench.errors import RunError
from workbench.progress import finish
from workbench.record import Record
from workbench.run import Run
from workbench.session.schema import Notebook
from workbench.storage import atomic_write, explained, from_json, read_file, sha256, to_json
from workbench.strict import validated
from workbench.tensor_files import tensors_from_bytes, tensors_to_bytes

RECORDS, NOTEBOOK = "records", "notebook.json"


def ask(
    run: Run, analysis: Analysis, *, step: int | None = None, device: torch.device | str = "cpu"
) -> Recorded:
    """Ask an analysis of a run's network and keep the record beside the run, for notebooks.

    Raises what the analysis raises, and `RunError` where the record cannot be written.
    """
    recorded = finish(record_steps(analysis, run, step=step, device=torch.device(device)))
    write_record(run, *recorded)
    return recorded


def write_record(run: Run, record: Record, arrays: Mapping[str, Tensor]) -> None:
    """Put a record beside the run, in place of those it replaces. Raises `RunError`."""
    replaced = [known for known in read_records(run) if _replaces(record, known)]
    write_records(run, [(record, arrays)])
    folder = run.path / RECORDS
    with explained("remove", folder):
        for known in replaced:
            for suffix in ("json", "safetensors"):
                (folder / f"{known.id}.{suffix}").unlink(missing_ok=True)


def write_records(run: Run, records: Iterable[tuple[Record, Mapping[str, Tensor]]]) -> None:
    """Put records beside the run, in place of those of the same ids alone. Raises `RunError`."""
    folder = run.path / RECORDS
    with explained("create", folder):
        folder.mkdir(exist_ok=True)
    for record, arrays in records:
        data = to_json(record.model_dump(), where=record.id, indent=1)
        if record.arrays is not None:
            atomic_write(folder / f"{record.id}.safetensors", tensors_to_bytes(arrays))
        atomic_write(folder / f"{record.id}.json", data)


def read_records(run: Run, step: int | None = None) -> list[Record]:
    """The records beside a run, by id; only those about one checkpoint's weights where given.

    Records about weights that the run does not have (it was trained again) are left out. Raises
    `RunError` for a damaged one.
    """
    folder = run.path / RECORDS
    if not folder.is_dir():
        return []
    with explained("list", folder):
        names = sorted(path.name for path in folder.glob("*.json") if not path.name.startswith("."))
    records = [_read(folder, name) for name in names]
    steps = {one.step for record in records for one in record.checkpoints}
    known = {one: run.weights_sha256(one) for one in steps & set(run.steps)}
    return [
        record
        for record in records
        if all(known.get(one.step) == one.weights_sha256 for one in record.checkpoints)
        and (step is None or record.step == step)
    ]


def read_arrays(run: Run, record: Record) -> dict[str, Tensor]:
    """The arrays of a record; none where it has none. Raises `RunError` or `WeightsError`."""
    if record.arrays is None:
        return {}
    folder, name = run.path / RECORDS, f"{record.id}.safetensors"
    data = read_file(folder, name)
    if sha256(data) != record.arrays.sha256:
        raise RunError(f"{folder / name} is damaged: its SHA-256 is not the recorded one; {MEND}")
    return tensors_from_bytes(data, where=str(folder / name))


def read_notebook(run: Run) -> Notebook:
    """Notes and marks kept beside a run; empty where there are none. Raises `RunError`."""
    if not (run.path / NOTEBOOK).is_file():
        return Notebook()
    data, where = read_file(run.path, NOTEBOOK), str(run.path / NOTEBOOK)
    from_json(data, where=where)  # no duplicate keys, no NaN
    return validated(Notebook, data, where=where, error=RunError)


def write_notebook(run: Run, notebook: Notebook) -> None:
    """Keep notes and marks beside a run, in place of the earlier ones. Raises `RunError`."""
    atomic_write(run.path / NOTEBOOK, to_json(notebook.model_dump(), where=NOTEBOOK, indent=1))


MEND = "remove the record and ask again"


def _replaces(record: Record, known: Record) -> bool:
    if record.id == known.id or record.kind != known.kind:
        return False
    names = {finding.id for finding in record.findings}
    return record.checkpoints == known.checkpoints and any(
        finding.id in names for finding in known.findings
    )


def _read(folder: Path, name: str) -> Record:
    data, where = read_file(folder, name), str(folder / name)
    from_json(data, where=where)  # no duplicate keys, no NaN
    record = validated(Record, data, where=where, error=RunError)
    if f"{record.id}.json" != name:
        raise RunError(f"{where} holds the record {record.id}; {MEND}")
    return record
