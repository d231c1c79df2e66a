"""What is written of a probed run: pictures and tables, from its record alone."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apps.probe_drawing import draw_lines
from probes.analyses.probe import lines_of
from workbench.record import Record
from workbench.storage import atomic_write


def write_probed(record: Record, outs: Sequence[Path]) -> None:
    """Pictures (.png, .svg) and tables (.csv) of a record of `workbench probe RUN`."""
    rows: Any = record.result["rows"]
    columns: Any = record.result["columns"]
    for out in outs:
        kind = out.suffix.lower().lstrip(".")
        if kind == "csv":
            atomic_write(out, to_csv(rows).encode())
        else:
            atomic_write(out, draw_lines(lines_of(record), kind, columns=columns))


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV, the interval in two columns."""
    flat = []
    for row in rows:
        low, high = row["interval"]
        kept = {key: value for key, value in row.items() if key != "interval"}
        flat.append({**kept, "low": low, "high": high})
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()
