"""Data that a stranger may have written: strict models, bounded text, no NaN. Needs no torch."""

import unicodedata
from typing import Annotated, TypeVar

import pydantic
from pydantic import AfterValidator, ConfigDict, Field, StringConstraints

from workbench.errors import WorkbenchError

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
"""No key that is not known, no conversion, no NaN."""

BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that make text read in another order than it is stored."""

LINE_ENDS = frozenset("\n\t\u2028\u2029")
"""What `plain_text` lets stand and a label does not hold: line ends, and tabs."""
LABEL = 200
"""Characters of a label, at most."""

M = TypeVar("M", bound="Strict")

LISTED = 1000
"""Faults of which the first is looked up."""


class Strict(pydantic.BaseModel):
    """A frozen model that refuses unknown keys, conversions and NaN."""

    model_config = STRICT


def plain_text(text: str) -> str:
    """The text, if nothing in it steers a terminal or a page. Raises `ValueError`.

    Line ends and tabs may stand; other control characters, lone surrogates and marks that reorder
    text may not.
    """
    for character in text:
        steers = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        if steers or character in BIDIRECTIONAL:
            raise ValueError(f"the character U+{ord(character):04X} is not allowed in text")
    return text


def plain_line(text: str) -> str:
    """The text, if it is plain and one line, so that it cannot pass for several in a terminal.

    Raises `ValueError`.
    """
    if found := LINE_ENDS.intersection(text):
        raise ValueError(f"the character U+{ord(min(found)):04X} is not allowed in a label")
    return plain_text(text)


Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal."""
Identifier = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""A random 128-bit number in hexadecimal."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
"""Of a kind, a task, an array."""
Moment = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")
]
"""A time in UTC, such as 2026-11-20T18:53:06Z."""
Label = Annotated[str, Field(max_length=LABEL), AfterValidator(plain_line)]
"""A word or a line of foreign text: no line end, no tab."""
Prose = Annotated[str, Field(max_length=20_000), AfterValidator(plain_text)]
"""Paragraphs of foreign text."""


def validated(model: type[M], data: bytes, *, where: str, error: type[WorkbenchError]) -> M:
    """A model from JSON bytes. Raises `error`, one line that names the key and what is wrong.

    The caller has made sure that the JSON has no duplicate key (`storage.from_json`).
    """
    try:
        return model.model_validate_json(data)
    except pydantic.ValidationError as wrong:
        raise error(f"{where}: {first_fault(wrong)}") from None


def first_fault(wrong: pydantic.ValidationError) -> str:
    """The first thing that is wrong, on one line, unless a list of it all would take memory."""
    if wrong.error_count() > LISTED:
        return f"{wrong.error_count()} faults, such as keys that are not known or missing"
    first = wrong.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])[:200] or "value"
    got = repr(first["input"])
    got = got if len(got) <= 80 else f"{got[:77]}..."
    return one_line(f"{key}: {first['msg']}, got {got}")


def one_line(text: str, *, longest: int = 400) -> str:
    """The text on one line, without characters that do not print, and not too long."""
    short = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)
