"""A TOML table as frozen dataclasses: unknown keys and wrong types are refused by name (CF-2). Pure.

The dataclasses are the format: field names are the keys, defaults the defaults, annotations the types. Understood are
str, bool, int, float, other dataclasses for sub-tables, Tuple[X, ...] for lists, and Mapping[str, X] for tables whose
keys are the user's own.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints


class ConfigError(Exception):
    """Stops the start: one line that names key, value and what was expected."""


T = TypeVar("T")
SCALARS: Mapping[object, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a string"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
}
NOT_SHOWN = "(not shown)"
MAX_NUMBER = 2**63 - 1  # TOML's own limit for whole numbers
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def wrong(key: str, value: object, expected: str) -> ConfigError:
    """A key with a value that will not do."""
    return ConfigError(f"{key} = {json.dumps(value, default=str)}: expected {expected}")


def secret() -> Any:
    """The default of a key that holds a secret: no repr and no error message shows its value."""
    return dataclasses.field(default="", repr=False)


def has_free_keys(kind: Any) -> bool:
    """Whether a type is Mapping[str, X], or dict[str, X]."""
    return getattr(kind, "__origin__", None) in (Mapping, dict)


def shown(table: Any) -> dict[str, Any]:
    """A table of the configuration as people may see it."""
    fields = dataclasses.fields(table)
    return {field.name: getattr(table, field.name) if field.repr else NOT_SHOWN for field in fields}


def expected_for(kind: Any, key: str) -> str:
    """What a key of this type has to be, for people."""
    if kind in SCALARS:
        return SCALARS[kind][1]
    if dataclasses.is_dataclass(kind) or has_free_keys(kind):
        return f"a table [{key}]"
    return "a list of tables" if dataclasses.is_dataclass(kind.__args__[0]) else "a list of strings"


def section(kind: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """A TOML table as the dataclass `kind`; raises ConfigError. `where` is the table's own name and a dot."""
    kinds = get_type_hints(kind)
    for name in table:
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            hint = f"did you mean {where}{near[0]}?" if near else f"known here: {', '.join(kinds)}"
            shown = name if BARE_KEY.fullmatch(name) else json.dumps(name)
            raise ConfigError(f"unknown key {where}{shown}; {hint}")
    values = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in table:
            shown = table[field.name] if field.repr else NOT_SHOWN
            values[field.name] = converted(kinds[field.name], table[field.name], where + field.name, shown)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            key = where + field.name
            raise ConfigError(f"{key} is missing: expected {expected_for(kinds[field.name], key)}")
    return kind(**values)


def fits(value: Any, kind: object) -> bool:
    """Whether a value of TOML is of a scalar type. true is no number here, and neither are inf, nan and 10**400."""
    return type(value) in SCALARS[kind][0] and (isinstance(value, (str, bool)) or -MAX_NUMBER <= value <= MAX_NUMBER)


def converted(kind: Any, value: Any, key: str, shown: object) -> Any:
    """`value` as the type `kind`; raises ConfigError, which shows `shown` for it."""
    if kind in SCALARS:
        if fits(value, kind):
            return value
    elif dataclasses.is_dataclass(kind):
        if isinstance(value, dict):
            return section(kind, value, f"{key}.")  # type: ignore[arg-type]
    elif has_free_keys(kind):
        if isinstance(value, dict):
            item = kind.__args__[1]  # of Mapping[str, item]
            return {
                name: converted(item, each, f"{key}.{json.dumps(name)}", NOT_SHOWN if shown == NOT_SHOWN else each)
                for name, each in value.items()
            }
    elif isinstance(value, list):
        item = kind.__args__[0]  # of Tuple[item, ...]
        return tuple(
            converted(item, each, f"{key}[{number}]", NOT_SHOWN if shown == NOT_SHOWN else each)
            for number, each in enumerate(value)
        )
    raise wrong(key, shown, expected_for(kind, key))
