"""JSON that a stranger may have written: counted before it is read, plain text only. No torch."""

import json
import re
from typing import Any, TypeVar

import pydantic

from workbench.session import limits
from workbench.session.refusal import refusal
from workbench.storage import strict_json
from workbench.strict import BIDIRECTIONAL, Strict, first_fault

M = TypeVar("M", bound=Strict)

# Each finds its whole match at the first try, whatever follows: no text makes it go back.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKET = re.compile(rb"[][{}]")
_LONG_NUMBER = re.compile(rb"[0-9+.eE-]{%d}" % (limits.DIGITS + 1))
_STEERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff" + "".join(sorted(BIDIRECTIONAL)) + "]"
)
"""What `strict.plain_text` refuses, as one expression."""


def read_json(data: bytes, *, where: str) -> dict[str, Any]:
    """One JSON object from ASCII text, within `workbench.session.limits`.

    Refuses duplicate keys, NaN, numbers beyond a double, text that steers a terminal or a page.
    Raises `SessionError`.
    """
    if not data.isascii():
        raise refusal(where, "bytes outside ASCII; other characters belong in \\u escapes")
    _count(data, where)
    try:
        value = strict_json(data.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise refusal(where, f"not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise refusal(where, f"a JSON {type(value).__name__} where an object must be")
    _require_plain_text(value, where)
    return value


def size_of(value: Any) -> tuple[int, int]:
    """How many values JSON data holds, itself included, and how many objects and lists."""
    values, containers, waiting = 0, 0, [value]
    while waiting:
        one = waiting.pop()
        values += 1
        if isinstance(one, dict | list):
            containers += 1
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return values, containers


def model_of(model: type[M], value: Any, *, where: str) -> M:
    """A strict model from JSON data that `read_json` gave. Raises `SessionError`."""
    values, containers = size_of(value)
    if values > limits.PIECE_VALUES or containers > limits.PIECE_CONTAINERS:
        raise refusal(
            where,
            f"{values} values, {containers} objects and lists; at most {limits.PIECE_VALUES} and "
            f"{limits.PIECE_CONTAINERS} may be here",
        )
    try:
        return model.model_validate_json(json.dumps(value))
    except pydantic.ValidationError as wrong:
        raise refusal(where, first_fault(wrong)) from None


def _count(data: bytes, where: str) -> None:
    """Refuse what would take too much memory to read, from the text alone."""
    bare, strings = _STRING.subn(b"s", data, 2 * limits.VALUES + 1)
    values = 1 + bare.count(b",") + bare.count(b"{") + bare.count(b"[")
    if max(values, strings / 2) > limits.VALUES:
        raise refusal(where, f"more than {limits.VALUES} values")
    if _LONG_NUMBER.search(bare):
        raise refusal(where, f"a number of more than {limits.DIGITS} characters")
    depth = 0
    for bracket in _BRACKET.finditer(bare):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth < 0:
            raise refusal(where, "not valid JSON (a bracket closes that none opened)")
        if depth > limits.DEPTH:
            raise refusal(where, f"more than {limits.DEPTH} objects and lists inside each other")


def _require_plain_text(value: Any, where: str) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting.extend(one)
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, str):
            if len(one) > limits.STRING:
                raise refusal(where, f"text of {len(one)} characters; at most {limits.STRING}")
            if found := _STEERS.search(one):
                code = f"U+{ord(found[0]):04X}"
                raise refusal(where, f"the character {code} is not allowed in text")
