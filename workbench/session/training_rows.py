"""What training recorded, as columns: one tensor per key, one entry per row."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.tensor_files import tensors_from_bytes


def encode_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Columns of the keys that every row has: `step` as int64, numbers as float64."""
    keys = [key for key in rows[0] if all(_is_number(row.get(key)) for row in rows)]
    return {
        key: torch.tensor(
            [row[key] for row in rows], dtype=torch.int64 if key == "step" else torch.float64
        )
        for key in keys
    }


def decode_rows(data: bytes, *, where: str) -> list[dict[str, Any]]:
    """The inverse of `encode_rows`. Raises `WeightsError`."""
    columns = tensors_from_bytes(data, where=where)
    names = sorted(columns, key=lambda name: (name != "step", name))
    rows = zip(*(columns[name].tolist() for name in names), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
