"""A TOML table as frozen dataclasses: unknown keys and wrong types are refused by name (CF-2). Pure.

The dataclasses are the format: field names are the keys, defaults the defaults, annotations the types. Understood are
str, bool, int, float, other dataclasses for sub-tables, and Tuple[X, ...] for lists.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from typing import Any, Mapping, Tuple, Type, TypeVar, get_type_hints


class ConfigError(Exception):
    """Stops the start: one line that names key, value and what was expected."""


T = TypeVar("T")
SCALARS: Mapping[object, Tuple[Tuple[type, ...], str]] = {
    str: ((str,), "a string"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}


def wrong(key: str, value: object, expected: str) -> ConfigError:
    return ConfigError(f"{key} = {json.dumps(value, default=str)}: expected {expected}")


def secret() -> Any:
    """The default of a key that holds a secret: no repr and no error message shows its value."""
    return dataclasses.field(default="", repr=False)


def section(kind: Type[T], table: Mapping[str, Any], where: str = "") -> T:
    """A TOML table as the dataclass `kind`; raises ConfigError. `where` is the table's own name and a dot."""
    kinds = get_type_hints(kind)
    for name in table:
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            hint = f"did you mean {where}{near[0]}?" if near else f"known here: {', '.join(kinds)}"
            raise ConfigError(f"unknown key {where}{name}; {hint}")
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in table:
            shown = table[field.name] if field.repr else "(not shown)"
            values[field.name] = converted(kinds[field.name], table[field.name], where + field.name, shown)
        elif field.default is dataclasses.MISSING:
            raise ConfigError(f"{where}{field.name} is missing: expected {SCALARS[kinds[field.name]][1]}")
    return kind(**values)


def converted(kind: Any, value: Any, key: str, shown: object) -> Any:
    """`value` as the type `kind`; raises ConfigError, which shows `shown` for it."""
    if kind in SCALARS:
        types, expected = SCALARS[kind]
        if not isinstance(value, types) or (isinstance(value, bool) and kind is not bool):
            raise wrong(key, shown, expected)
        return value
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise wrong(key, shown, f"a table [{key}]")
        return section(kind, value, f"{key}.")  # type: ignore[arg-type]
    item = kind.__args__[0]  # of Tuple[item, ...]
    if not isinstance(value, list):
        raise wrong(key, shown, f"a list of {'tables' if dataclasses.is_dataclass(item) else 'strings'}")
    return tuple(converted(item, each, f"{key}[{number}]", each) for number, each in enumerate(value))
