"""The logit lens of one input as a table: the right token's logit, probability and rank."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from circuits.logit_lens import LogitLens
from workbench.errors import CircuitError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LensReading:
    """What would be answered after every part of the network, at every position."""

    places: tuple[str, ...]
    """As in `LogitLens`."""
    logit: Float[Tensor, "place pos"]
    """Of the token asked about."""
    probability: Float[Tensor, "place pos"]
    """Of the token asked about, in the softmax over all output tokens."""
    rank: Int[Tensor, "place pos"]
    """How many tokens have at least its logit, itself included: 1 where it would be answered."""
    top: Int[Tensor, "place pos"]
    """The token with the largest logit, which would be answered."""


def read_lens(lens: LogitLens, token: int, *, row: int = 0) -> LensReading:
    """One input of a lens, as seen by one output token. Raises `CircuitError` for no token."""
    logits = lens.logits[:, row]
    if not 0 <= token < logits.shape[-1]:
        raise CircuitError(
            f"no output token {token}; the network writes 0 to {logits.shape[-1] - 1}"
        )
    own = logits[..., token]
    return LensReading(
        places=lens.places,
        logit=own.cpu(),
        probability=logits.softmax(-1)[..., token].cpu(),
        rank=(logits >= own[..., None]).sum(-1).cpu(),
        top=logits.argmax(-1).cpu(),
    )
