"""A row of a probe's results, written by hand."""

from typing import Any

from probes.rows import Row


def row(control: str, value: float, **changes: Any) -> Row:
    settings: dict[str, Any] = {
        "hook": "hook_embed",
        "position": 0,
        "head": None,
        "variable": "v",
        "probe": "ridge",
        "split": "grouped",
        "control": control,
        "metric": "accuracy",
        "value": value,
        "n": 100,
    }
    return Row(**{**settings, **changes})
