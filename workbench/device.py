"""Which device to compute on."""

import torch

from workbench.errors import DeviceError


def find_device(name: str) -> torch.device:
    """`auto` (CUDA when present, else the CPU), `cpu` or `cuda`. Raises `DeviceError`."""
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"no device {name!r}; choose auto, cpu or cuda")
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise DeviceError("no CUDA device is present; use --device cpu, or auto to take what is")
    return torch.device("cuda" if present and name != "cpu" else "cpu")
