"""Configurations: frozen, flat dataclasses that travel as JSON and refuse unknown keys.

pydantic checks types and ranges; the dataclasses themselves stay plain. Every complaint is one
line that names the key, the value and what would be right.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

from workbench.errors import ConfigError
from workbench.registry import unknown

C = TypeVar("C")


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as a JSON-ready dictionary (tuples become lists)."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(cls: type[C], data: Mapping[str, Any], *, where: str) -> C:
    """A configuration of type `cls` from JSON data; `where` names it in messages.

    Raises `ConfigError` for an unknown key (with the nearest known one) or a value of the
    wrong type or outside its range.
    """
    _refuse_unknown(cls, data, where)
    return _validate(cls, dict(data), where=where)


def from_json(cls: type[C], data: dict[str, Any], *, where: str) -> C:
    """`from_dict` for files: what is read must be what was written, without conversion.

    Raises `ConfigError`, for instance where a number is written as text.
    """
    parsed = from_dict(cls, data, where=where)
    require_same(data, to_dict(parsed), where=where)
    return parsed


def require_same(given: dict[str, Any], read: dict[str, Any], *, where: str) -> None:
    """Raise `ConfigError` where a given value was read as another one."""
    for key, value in given.items():
        if not _same(value, read[key]):
            raise ConfigError(
                f"{where} {key} = {value!r} is of the wrong type; write {read[key]!r}"
            )


def _same(given: Any, read: Any) -> bool:
    if isinstance(given, dict) and isinstance(read, dict):
        return given.keys() == read.keys() and all(_same(given[k], read[k]) for k in given)
    if isinstance(given, list) and isinstance(read, list):
        return len(given) == len(read) and all(map(_same, given, read))
    return bool(given == read) and isinstance(given, bool) == isinstance(read, bool)


def override(config: C, settings: Mapping[str, str], *, where: str) -> C:
    """The configuration with some fields set from text (`--set lr=0.01`); `none` means None.

    Raises `ConfigError` as `from_dict` does.
    """
    cls = type(config)
    _refuse_unknown(cls, settings, where)
    values = {key: None if text.lower() == "none" else text for key, text in settings.items()}
    return _validate(cls, {**to_dict(config), **values}, where=where)


def keys(cls: type[Any]) -> list[str]:
    """The keys that a configuration of this type has."""
    return [field.name for field in dataclasses.fields(cls)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _refuse_unknown(cls: type[Any], data: Mapping[str, Any], where: str) -> None:
    for key in data:
        if key not in keys(cls):
            raise ConfigError(unknown(f"{where} key", key, keys(cls)))


@functools.cache
def _adapter(kind: Any) -> Any:
    """A pydantic TypeAdapter, built once per type: building takes milliseconds."""
    return pydantic.TypeAdapter(kind)


def _validate(cls: type[C], data: dict[str, Any], *, where: str) -> C:
    kind: Any = cls  # a type is hashable, which mypy does not see of type[C]
    try:
        validated: C = _adapter(kind).validate_python(data)
        return validated
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "value"
        said = first["msg"].replace("tuple", "list")  # what people write in JSON and YAML
        raise ConfigError(f"{where} {key} = {first['input']!r}: {said}") from None
