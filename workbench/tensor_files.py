"""Tensors as safetensors files, and the digest of a network. Nothing is ever unpickled."""

import hashlib
import json
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from workbench.errors import WeightsError
from workbench.params import Params


def weights_digest(params: Mapping[str, Tensor]) -> str:
    """SHA-256 of a network: names (sorted), shapes, dtypes and little-endian values.

    The same network has the same digest on every device, in every dictionary order and in every
    file layout; any changed bit of any parameter changes it.
    """
    digest = hashlib.sha256()
    for name in sorted(params):
        tensor = params[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(json.dumps([name, dtype, list(tensor.shape)]).encode() + b"\n")
        digest.update(_little_endian(tensor))
    return digest.hexdigest()


def _little_endian(tensor: Tensor) -> bytes:
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach().cpu().contiguous().view(whole[tensor.element_size()]).numpy()
    return bits.astype(bits.dtype.newbyteorder("<")).tobytes()


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file. The same tensors give the same bytes, in every dictionary order."""
    # Cloned: a view into a stack of networks would be refused for sharing its memory.
    return save({name: tensors[name].detach().cpu().contiguous().clone() for name in tensors})


def tensors_from_bytes(data: bytes, *, where: str) -> Params:
    """The tensors of a safetensors file, on the CPU, by name. Raises `WeightsError`.

    Sorted, as the file's reader gives them in another order each time; and copied, as it leaves
    them where they lie in the bytes, and rounding differs with a tensor's address.
    """
    try:
        loaded = load(data)
        return {name: loaded[name].clone() for name in sorted(loaded)}
    except (SafetensorError, KeyError, TypeError, ValueError, AssertionError) as error:
        raise WeightsError(
            f"{where} is not a readable safetensors file ({error}); "
            "it is cut short, damaged or of another kind: copy or export it again"
        ) from None


def as_float32(params: Mapping[str, Tensor]) -> Params:
    """The same numbers in float32, on the CPU. Raises `WeightsError` where that would round."""
    stored: Params = {}
    for name, tensor in params.items():
        stored[name] = tensor.detach().to("cpu", torch.float32)
        if not torch.equal(stored[name].to(tensor.dtype), tensor.detach().cpu()):
            raise WeightsError(
                f"weights {name}: {tensor.dtype} values that float32 cannot hold exactly; "
                "round them yourself with tensor.float(), and check the network still works"
            )
    return stored
