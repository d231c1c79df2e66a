"""A store of finished shards, addressed by what they were computed from.

    shards/<key>.safetensors  the tensors of a shard, where it has any: written first
    shards/<key>.parquet      its rows: once this file is there and whole, the shard is done
    failures/<key>.json       why it failed last, where it failed

The key is the SHA-256 of the canonical JSON of the schema version, the compute function's identity
and the specification (which names the digests of weights and data, seeds and dtype): not of a path,
a host or a rank. Files are written under a temporary name, flushed and renamed, so a file under its
own name is whole unless the disk failed. Parquet's footer, at the end, shows that at little cost;
the checksums of its pages and the tensors' digest show it in full. Nothing here deletes.
"""

import errno
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from probes.batch.compute import ShardResult
from workbench.errors import RunError, SweepError
from workbench.storage import atomic_write, explained, from_json, read_file, sha256, to_json
from workbench.tensor_files import tensors_from_bytes, tensors_to_bytes

PLAN = "plan.json"
"""The first file of a results directory, and what makes it one."""

SCHEMA_VERSION = 1
"""Part of every key: raised when the meaning of what a shard stores changes."""

SHARD_COLUMN = "shard"
"""First column of every stored table: the key, which is also the name of the tensors' file."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk, a quota or a file's largest size is reached."""

_METADATA = b"workbench"


def plain_json(value: Any, *, where: str) -> Any:
    """The same JSON value with sorted keys and lists for tuples, as it is read back from a file.

    Raises `SweepError` for what JSON cannot hold exactly: NaN, keys that are not text, objects.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list | tuple):
        return [plain_json(item, where=f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain_json(value[key], where=f"{where}.{key}") for key in sorted(value)}
    raise SweepError(
        f"{where} = {value!r} cannot be written as JSON; "
        "use finite numbers, text, lists, and dictionaries with text as keys"
    )


def canonical_json(value: Any, *, where: str) -> bytes:
    """One spelling of a JSON value. Raises `SweepError` as `plain_json`."""
    return json.dumps(plain_json(value, where=where), separators=(",", ":")).encode()


def shard_key(identity: str, spec: dict[str, Any]) -> str:
    """SHA-256 of all that decides a shard's content. Raises `SweepError` as `plain_json`.

    Entries whose names begin with `_` say where things lie (a path, a device); they decide nothing
    and are left out, so that a moved run is still the same run.
    """
    deciding = {key: value for key, value in spec.items() if not key.startswith("_")}
    parts = {"schema": SCHEMA_VERSION, "compute": identity, "spec": deciding}
    return sha256(canonical_json(parts, where="shard"))


class ShardFiles(NamedTuple):
    """The bytes of a shard's files."""

    rows: bytes
    tensors: bytes | None


def shard_files(key: str, result: ShardResult, *, facts: dict[str, Any]) -> ShardFiles:
    """A result as it is stored, with its key as the first column, `shard`.

    `facts` are what two computations of one shard may differ in (seconds, device, versions); they
    go beside the rows, not into them. Raises `SweepError` where the table has a column `shard`.
    """
    table = result.table
    if SHARD_COLUMN in table.column_names:
        raise SweepError(f"the column {SHARD_COLUMN!r} is the store's own; call yours otherwise")
    tensors = tensors_to_bytes(result.tensors) if result.tensors else None
    footer = {
        "schema": SCHEMA_VERSION,
        "key": key,
        "rows": table.num_rows,
        "tensors": None if tensors is None else sha256(tensors),
        "facts": facts,
    }
    keys = pa.repeat(pa.scalar(key), table.num_rows)
    table = table.add_column(0, SHARD_COLUMN, keys)
    table = table.replace_schema_metadata({_METADATA: to_json(footer, where="footer")})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return ShardFiles(sink.getvalue().to_pybytes(), tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What a finished shard says of itself."""

    rows: int
    tensors: str | None
    """SHA-256 of the tensors' file."""
    facts: dict[str, Any]
    """What may differ between two computations of it: seconds, device, versions."""


@dataclass(frozen=True, slots=True)
class ShardStore:
    """The finished shards of one results directory."""

    directory: Path

    def rows_path(self, key: str) -> Path:
        return self.directory / "shards" / f"{key}.parquet"

    def tensors_path(self, key: str) -> Path:
        return self.directory / "shards" / f"{key}.safetensors"

    def failure_path(self, key: str) -> Path:
        return self.directory / "failures" / f"{key}.json"

    def write(self, key: str, files: ShardFiles) -> None:
        """Store a shard; it is done when this returns. Raises `SweepError` as `written`."""
        with written():
            make_folder(self.directory, "shards")
            if files.tensors is not None:
                atomic_write(self.tensors_path(key), files.tensors)
            atomic_write(self.rows_path(key), files.rows)

    def footer(self, key: str) -> Footer | None:
        """A finished shard's footer; None where the shard is not there, not whole or another's."""
        try:
            parquet = pq.read_metadata(self.rows_path(key))
            stored = from_json((parquet.metadata or {})[_METADATA], where="footer")
            whole = stored["key"] == key and stored["rows"] == parquet.num_rows
            if stored["tensors"] is not None:
                whole = whole and self.tensors_path(key).is_file()
            footer = Footer(rows=stored["rows"], tensors=stored["tensors"], facts=stored["facts"])
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException, RunError):
            return None
        return footer if whole and stored["schema"] == SCHEMA_VERSION else None

    def is_done(self, key: str) -> bool:
        """Whether the shard is finished and its footer reads; damage before that goes unseen."""
        return self.footer(key) is not None

    def is_whole(self, key: str) -> bool:
        """Whether the shard is finished and every byte of rows and tensors passes its check.

        Reads both files to their end.
        """
        if not self.is_done(key):
            return False
        try:
            self.table(key)
            self._tensors_file(key)
        except SweepError:
            return False
        return True

    def table(self, key: str) -> pa.Table:
        """The rows of a finished shard. Raises `SweepError` where they cannot be read."""
        path = self.rows_path(key)
        try:
            return _rows(path.read_bytes())
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise SweepError(
                f"{path} is damaged ({reason}); run its plan again, which computes it anew"
            ) from None

    def tensors(self, key: str) -> dict[str, Tensor]:
        """The tensors of a finished shard, on the CPU; none where it has none.

        Raises `SweepError` where it is not finished, or its tensors are not those it was finished
        with.
        """
        data = self._tensors_file(key)
        return {} if data is None else tensors_from_bytes(data, where=str(self.tensors_path(key)))

    def _tensors_file(self, key: str) -> bytes | None:
        footer = self.footer(key)
        if footer is None:
            raise SweepError(f"shard {key[:12]} is not finished; run its plan to the end")
        if footer.tensors is None:
            return None
        path = self.tensors_path(key)
        with _as_sweep_error():
            data = read_file(path.parent, path.name)
        if sha256(data) != footer.tensors:
            raise SweepError(
                f"{path} is not what its shard was finished with; "
                "run its plan again, which computes it anew"
            )
        return data

    def write_failure(self, key: str, *, run: str, error: str, trace: str) -> None:
        """Record why a shard failed. Raises `SweepError` as `written`."""
        record = to_json({"key": key, "run": run, "error": error, "trace": trace}, where="failure")
        with written():
            make_folder(self.directory, "failures")
            atomic_write(self.failure_path(key), record)

    def failure(self, key: str) -> dict[str, Any] | None:
        """`{"key", "run", "error", "trace"}` of the last failure; None where there is none."""
        path = self.failure_path(key)
        try:
            return from_json(path.read_bytes(), where=str(path))
        except (OSError, RunError):
            return None


def _rows(data: bytes) -> pa.Table:
    """The rows of a Parquet file, every page of it checked against its checksum."""
    # From memory and in this thread: reading ahead has threads of Arrow's at work when a damaged
    # page raises, and a process that ends meanwhile is aborted.
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)
    try:
        return file.read(use_threads=False).replace_schema_metadata(None)
    finally:
        file.close(force=True)


def require_plan(directory: Path) -> None:
    """Raise `SweepError` where a results directory was removed, or moved, in mid-run."""
    if not (directory / PLAN).is_file():
        raise SweepError(
            f"{directory} has lost its {PLAN} while the run went on, so nothing more is computed; "
            "put the directory back, or run the same command again into a new one"
        )


def make_folder(directory: Path, name: str) -> Path:
    """A folder of a results directory, made where there is none.

    Raises `SweepError` where the results directory itself was removed: it is not made again.
    Raises `RunError` as `atomic_write`.
    """
    require_plan(directory)
    path = directory / name
    with explained("make", path):
        path.mkdir(exist_ok=True)
    return path


@contextmanager
def written() -> Iterator[None]:
    """Turn a failed write inside into a `SweepError` that says what is kept and what to do.

    A full disk leaves every finished shard whole, and the run can be resumed.
    """
    try:
        yield
    except RunError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in FULL:
            raise SweepError(
                f"no space left for {cause.filename or 'results'} ({cause.strerror}): finished "
                "shards are kept; free space and run the same command again"
            ) from error
        raise SweepError(str(error)) from error


@contextmanager
def _as_sweep_error() -> Iterator[None]:
    try:
        yield
    except RunError as error:
        raise SweepError(str(error)) from None
