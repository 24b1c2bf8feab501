"""Settings: a TOML table as dataclasses (CF-2)."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kcistorage
from kcistorage_parts.logfmt import Log
from kcistorage_parts.settings import MAX_NUMBER, ConfigError, secret, section, wrong

SECRET = "correct horse battery staple"


@dataclasses.dataclass(frozen=True)
class Door:
    colour: str  # no default: has to be said
    width_cm: float = 90.0
    open: bool = False


@dataclasses.dataclass(frozen=True)
class Garden:
    trees: int = 0
    flowers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class House:
    name: str = "home"
    key: str = secret()
    spare_keys: tuple[str, ...] = secret()
    garden: Garden = Garden()
    doors: tuple[Door, ...] = ()


@dataclasses.dataclass(frozen=True)
class Street:
    houses: tuple[House, ...]


@dataclasses.dataclass(frozen=True)
class Shelf:
    days: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rooms: dict[str, int] = dataclasses.field(default_factory=dict)
    codes: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)


@dataclasses.dataclass(frozen=True)
class Cellar:
    wines: Mapping[str, float]  # has to be said
    shelf: Shelf = Shelf()


def refused(table: Any, kind: Any = House) -> str:
    """The one line that stops the start."""
    with pytest.raises(ConfigError) as error:
        section(kind, table)
    line = str(error.value)
    assert line.isprintable()
    return line


def as_toml(settings: Any) -> dict[str, Any]:
    """The table that makes these settings: TOML has lists for tuples."""
    return dataclasses.asdict(
        settings,
        dict_factory=lambda pairs: {k: list(value) if isinstance(value, tuple) else value for k, value in pairs},
    )


# ---- What is understood


def test_an_empty_table_is_all_defaults() -> None:
    assert section(House, {}) == House()


def test_every_type_there_is() -> None:
    table = {
        "name": "Ü",
        "key": SECRET,
        "garden": {"trees": 3, "flowers": ["rose", ""]},
        "doors": [{"colour": "red", "width_cm": 80, "open": True}, {"colour": "", "width_cm": 0.5}],
    }
    doors = (Door("red", 80, True), Door("", 0.5))
    assert section(House, table) == House("Ü", SECRET, garden=Garden(3, ("rose", "")), doors=doors)


@given(
    st.builds(
        House,
        name=st.text(),
        key=st.text(),
        spare_keys=st.lists(st.text()).map(tuple),
        garden=st.builds(Garden, trees=st.integers(-MAX_NUMBER, MAX_NUMBER), flowers=st.lists(st.text()).map(tuple)),
        doors=st.lists(
            st.builds(Door, colour=st.text(), width_cm=st.floats(-1e18, 1e18), open=st.booleans()), max_size=3
        ).map(tuple),
    )
)
def test_what_is_written_out_as_a_table_reads_back(house: House) -> None:
    """Invariant: section(kind, as_toml(it)) == it."""
    assert section(House, as_toml(house)) == house


def test_the_server_s_own_configuration_is_understood() -> None:
    """CF-2: defaults of every section, from a table that names all of them."""
    assert section(kcistorage.Config, as_toml(kcistorage.Config())) == kcistorage.Config()


def test_a_table_with_keys_of_the_user_s_own() -> None:
    """`expire = { "6m" = 180 }`: no name is known, so none is unknown."""
    table = {"wines": {"6m": 180, "": 0.5, "a.b\n": -1}, "shelf": {"rooms": {"x y": 3}}}
    assert section(Cellar, table) == Cellar({"6m": 180, "": 0.5, "a.b\n": -1}, Shelf(rooms={"x y": 3}))
    assert section(Shelf, {}) == Shelf({}, {}, {})
    assert section(Shelf, {"days": {}}) == Shelf()


@given(st.builds(Cellar, st.dictionaries(st.text(), st.floats(-1e18, 1e18) | st.integers(-MAX_NUMBER, MAX_NUMBER))))
def test_whatever_the_keys_are_they_stay_as_they_are(cellar: Cellar) -> None:
    """Invariant: section(kind, as_toml(it)) == it."""
    assert section(Cellar, as_toml(cellar)) == cellar


def test_defaults_are_not_shared() -> None:
    assert section(Shelf, {}).days is not section(Shelf, {}).days


# ---- Unknown keys (CF-2: by name, with the nearest known key)


def test_a_misspelt_key_is_refused_with_the_nearest_one() -> None:
    assert refused({"nmae": "x"}) == "unknown key nmae; did you mean name?"
    assert refused({"garden": {"tree": 1}}) == "unknown key garden.tree; did you mean garden.trees?"
    assert refused({"doors": [{"colour": "red"}, {"color": "red"}]}) == (
        "unknown key doors[1].color; did you mean doors[1].colour?"
    )


def test_a_key_unlike_all_others_is_refused_with_what_is_known() -> None:
    assert refused({"zzz": 1}) == "unknown key zzz; known here: name, key, spare_keys, garden, doors"
    assert refused({"garden": {"zzz": 1}}) == "unknown key garden.zzz; known here: trees, flowers"


def test_a_key_of_odd_characters_stays_on_the_line() -> None:
    known = "name, key, spare_keys, garden, doors"
    assert refused({"a\nb\x1b[2J": 1}) == f'unknown key "a\\nb\\u001b[2J"; known here: {known}'


@given(st.text(), st.booleans() | st.integers() | st.text() | st.lists(st.text()))
def test_no_unknown_key_is_passed_over(name: str, value: object) -> None:
    """Invariant: a key that no field has is named in the refusal, on one line."""
    known = {field.name for field in dataclasses.fields(House)}
    if name not in known:
        assert refused({name: value}).startswith("unknown key ")


# ---- Wrong values (CF-2: key, value, expectation)

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": 1}, "name = 1: expected a string"),
    ({"name": True}, "name = true: expected a string"),
    ({"name": ["a"]}, 'name = ["a"]: expected a string'),
    ({"name": datetime.date(2026, 8, 20)}, 'name = "2026-08-20": expected a string'),
    ({"garden": {"trees": "3"}}, 'garden.trees = "3": expected a whole number'),
    ({"garden": {"trees": 3.0}}, "garden.trees = 3.0: expected a whole number"),
    ({"garden": {"trees": False}}, "garden.trees = false: expected a whole number"),
    ({"garden": {"trees": 2**63}}, "garden.trees = 9223372036854775808: expected a whole number"),
    ({"garden": 3}, "garden = 3: expected a table [garden]"),
    ({"garden": [{"trees": 3}]}, 'garden = [{"trees": 3}]: expected a table [garden]'),
    ({"garden": {"flowers": "rose"}}, 'garden.flowers = "rose": expected a list of strings'),
    ({"garden": {"flowers": ["rose", 2]}}, "garden.flowers[1] = 2: expected a string"),
    ({"doors": {"colour": "red"}}, 'doors = {"colour": "red"}: expected a list of tables'),
    ({"doors": ["red"]}, 'doors[0] = "red": expected a table [doors[0]]'),
    ({"doors": [{}]}, "doors[0].colour is missing: expected a string"),
    ({"doors": [{"colour": "red", "open": 1}]}, "doors[0].open = 1: expected true or false"),
    ({"doors": [{"colour": "red", "width_cm": "1"}]}, 'doors[0].width_cm = "1": expected a number'),
    ({"doors": [{"colour": "red", "width_cm": True}]}, "doors[0].width_cm = true: expected a number"),
    ({"doors": [{"colour": "red", "width_cm": math.inf}]}, "doors[0].width_cm = Infinity: expected a number"),
    ({"doors": [{"colour": "red", "width_cm": -math.inf}]}, "doors[0].width_cm = -Infinity: expected a number"),
    ({"doors": [{"colour": "red", "width_cm": math.nan}]}, "doors[0].width_cm = NaN: expected a number"),
    ({"doors": [{"colour": "red", "width_cm": 10**20}]}, f"doors[0].width_cm = {10**20}: expected a number"),
]


@pytest.mark.parametrize(("table", "line"), WRONG, ids=[line.partition(":")[0] for _, line in WRONG])
def test_a_wrong_value_is_refused_with_key_value_and_expectation(table: dict[str, Any], line: str) -> None:
    assert refused(table) == line


WRONG_FREELY: list[tuple[dict[str, Any], str]] = [
    ({"wines": {"6m": "x"}}, 'wines."6m" = "x": expected a number'),
    ({"wines": {"6m": 180, "1y": True}}, 'wines."1y" = true: expected a number'),
    ({"wines": {"6m": math.nan}}, 'wines."6m" = NaN: expected a number'),
    ({"wines": {"6m": [1]}}, 'wines."6m" = [1]: expected a number'),
    ({"wines": {'a"\nb\x1b': {}}}, 'wines."a\\"\\nb\\u001b" = {}: expected a number'),
    ({"wines": 180}, "wines = 180: expected a table [wines]"),
    ({"wines": [{"6m": 180}]}, 'wines = [{"6m": 180}]: expected a table [wines]'),
    ({}, "wines is missing: expected a table [wines]"),
    ({"wines": {}, "shelf": {"days": {"6m": ""}}}, 'shelf.days."6m" = "": expected a number'),
    ({"wines": {}, "shelf": {"rooms": {"6m": 1.5}}}, 'shelf.rooms."6m" = 1.5: expected a whole number'),
    ({"wines": {}, "shelf": {"rooms": "x"}}, 'shelf.rooms = "x": expected a table [shelf.rooms]'),
    ({"wines": {}, "shelf": {"codes": {"door": 1}}}, 'shelf.codes."door" = "(not shown)": expected a string'),
]


@pytest.mark.parametrize(("table", "line"), WRONG_FREELY, ids=[line.partition(":")[0] for _, line in WRONG_FREELY])
def test_a_wrong_value_under_a_key_of_the_user_s_own_is_refused_by_that_key(table: dict[str, Any], line: str) -> None:
    assert refused(table, Cellar) == line


def test_a_list_that_has_to_be_there() -> None:
    assert refused({}, Street) == "houses is missing: expected a list of tables"
    assert section(Street, {"houses": []}) == Street(())


def test_a_line_break_in_a_value_stays_on_the_line() -> None:
    assert refused({"garden": "a\nb\x00\u2028"}) == 'garden = "a\\nb\\u0000\\u2028": expected a table [garden]'
    assert str(wrong("key", ["a\nb"], "better")) == 'key = ["a\\nb"]: expected better'


# ---- Secrets (LG-1: none is ever shown)


def test_a_secret_is_in_no_error_and_no_repr() -> None:
    assert refused({"key": [SECRET]}) == 'key = "(not shown)": expected a string'
    assert refused({"spare_keys": SECRET}) == 'spare_keys = "(not shown)": expected a list of strings'
    assert refused({"spare_keys": ["one", [SECRET]]}) == 'spare_keys[1] = "(not shown)": expected a string'
    assert SECRET not in repr(section(House, {"key": SECRET, "spare_keys": [SECRET]}))


@pytest.mark.parametrize("kind", [kcistorage.Config, kcistorage.Azure, kcistorage.S3, kcistorage.DownloadChallenge])
def test_the_server_s_secrets_are_marked_as_such(kind: Any) -> None:
    shown = {field.name for field in dataclasses.fields(kind) if field.repr}
    assert not {name for name in shown if "secret" in name or name in ("key", "sastoken")}


# ---- A configuration file that the server cannot run with (CF-2)

ABSURD = {
    "a time that no clock can wait for": "[limits]\nlock_seconds = 1e12",
    "an endless time": "[limits]\nbody_idle_seconds = inf",
    "no time at all": "[limits]\nhead_seconds = nan",
    "a number of 5,000 digits": "[limits]\nconnections = " + "9" * 5_000,
    "5,000 brackets": "block_subnets = " + "[" * 5_000 + "]" * 5_000,
    "a path that is none": '[local]\nstorage_path = "a\\u0000b"',
    "bytes that are no text": "# \udcff",
}


@pytest.mark.parametrize("text", ABSURD.values(), ids=ABSURD)
def test_what_would_fail_later_or_with_a_traceback_stops_the_start(text: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'driver = "local"\njwt_secret = "{SECRET}"\n{text}\n', errors="surrogateescape")
    with pytest.raises(ConfigError):
        kcistorage.build_server(kcistorage.load_config(str(config)), ("127.0.0.1", 0), str(tmp_path), None, Log(1))
