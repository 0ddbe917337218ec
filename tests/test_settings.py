"""Every setting: its default, its environment variable, its checks, and what is said of a wrong one."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib
from typing import Any

import pytest

from usage_instrument.errors import ConfigurationError, UsageInstrumentError
from usage_instrument.exclusions import people_only
from usage_instrument.settings import ENVIRONMENT_PREFIX, SettingOptions, Settings, misspelt

DEFAULTS: dict[str, object] = {
    "flush_interval": 5.0,
    "flush_rows": 5_000,
    "flush_statements": "auto",
    "max_pending": 100_000,
    "max_pending_bytes": 64 * 2**20,
    "shutdown_timeout": 5.0,
    "lock_timeout": 0.5,
    "statement_timeout": 10.0,
    "users": "auto",
    "user_id_type": "uuid",
    "schema": None,
    "history": "day",
    "history_retention": 400 * 86400.0,
    "history_months_after": None,
    "journal": None,
    "journal_max_bytes": 2**30,
    "writer": "process",
    "metadata_max_bytes": 4096,
    "dimension_values": 100,
    "user_retry": 600.0,
    "read_timeout": None,
    "resend_max_bytes": 16 * 2**20,
    "strict": False,
    "enabled": True,
    "before_track": None,
    "service": "",
    "audit_timeout": 2.0,
    "audit_key": None,
    "privacy_key": None,
}
SAID: dict[str, tuple[str, object]] = {
    "flush_interval": ("2.5", 2.5),
    "flush_rows": ("10", 10),
    "flush_statements": ("portable", "portable"),
    "max_pending": ("7", 7),
    "max_pending_bytes": ("7", 7),
    "shutdown_timeout": ("10m", 600.0),
    "lock_timeout": ("0", 0.0),
    "statement_timeout": ("1h", 3600.0),
    "users": ("auth.people.id", "auth.people.id"),
    "user_id_type": ("integer", "integer"),
    "schema": ("usage", "usage"),
    "history": ("hour", "hour"),
    "history_retention": ("30d", 30 * 86400.0),
    "history_months_after": ("100d", 100 * 86400.0),
    "journal": ("/var/lib/usage", "/var/lib/usage"),
    "journal_max_bytes": ("4096", 4096),
    "writer": ("collector", "collector"),
    "metadata_max_bytes": ("100", 100),
    "dimension_values": ("500", 500),
    "user_retry": ("90s", 90.0),
    "read_timeout": ("2m", 120.0),
    "resend_max_bytes": ("1000", 1000),
    "strict": ("1", True),
    "enabled": ("off", False),
    "before_track": ("usage_instrument.exclusions:people_only", people_only),
    "service": ("web", "web"),
    "audit_timeout": ("500", 500.0),
    "audit_key": ("k" * 32, "k" * 32),
    "privacy_key": ("p" * 32, "p" * 32),
}
DURATIONS = [
    "flush_interval",
    "shutdown_timeout",
    "lock_timeout",
    "statement_timeout",
    "history_retention",
    "user_retry",
    "audit_timeout",
]
INTEGERS = [
    "flush_rows",
    "max_pending",
    "max_pending_bytes",
    "journal_max_bytes",
    "metadata_max_bytes",
    "dimension_values",
    "resend_max_bytes",
]


def test_the_tables_above_name_every_setting() -> None:
    names = {field.name for field in dataclasses.fields(Settings)}
    assert set(DEFAULTS) == set(SAID) == names


def test_the_defaults() -> None:
    assert dataclasses.asdict(Settings()) == DEFAULTS
    assert Settings.from_environment({}) == Settings()


@pytest.mark.parametrize("name", SAID)
def test_the_environment_says_it(name: str) -> None:
    text, expected = SAID[name]
    settings = Settings.from_environment({ENVIRONMENT_PREFIX + name.upper(): f" {text} "})
    assert dataclasses.asdict(settings) == {**DEFAULTS, name: expected}


@pytest.mark.parametrize("kept", ["100d", "90d"])
def test_days_become_months_before_they_go(kept: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^history_months_after \(100d\) is less than history_retention \("):
        Settings(history_months_after="100d", history_retention=kept)


def test_the_days_of_the_last_months_are_kept() -> None:
    assert Settings(history_months_after=dt.timedelta(days=90)).history_months_after == 90 * 86400.0
    with pytest.raises(ConfigurationError, match=r"^history_months_after is at least 90d, or None, not '89d'$"):
        Settings(history_months_after="89d")


def test_a_dimension_has_few_values() -> None:
    with pytest.raises(
        ConfigurationError, match="dimension_values is at most 500, not 501: a dimension has few values"
    ):
        Settings(dimension_values=501)


@pytest.mark.parametrize("name", SAID)
def test_the_caller_is_heard_over_the_environment(name: str) -> None:
    text, _ = SAID[name]
    environ = {ENVIRONMENT_PREFIX + name.upper(): text}
    explicit: Any = {name: DEFAULTS[name]}
    assert Settings.from_environment(environ, **explicit) == Settings()


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAGE_INSTRUMENT_SERVICE", "worker")
    assert Settings.from_environment().service == "worker"


def test_another_programs_variables_are_left_alone() -> None:
    assert Settings.from_environment({"SERVICE": "x", "USAGE_INSTRUMENT_DATABASE_URL": "sqlite://"}) == Settings()


@pytest.mark.parametrize("name", ["users", "schema", "history", "history_months_after", "journal"])
@pytest.mark.parametrize("text", ["", "none", "None", " NONE "])
def test_none_in_the_environment(name: str, text: str) -> None:
    assert getattr(Settings.from_environment({ENVIRONMENT_PREFIX + name.upper(): text}), name) is None


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (3, 3.0),
        (0.25, 0.25),
        (dt.timedelta(minutes=2, milliseconds=500), 120.5),
        (dt.timedelta(0), 0.0),
        ("10", 10.0),
        ("0", 0.0),
        ("1.5s", 1.5),
        ("10m", 600.0),
        ("2H", 7200.0),
        ("30d", 2592000.0),
    ],
)
def test_durations(name: str, value: Any, seconds: float) -> None:
    found = getattr(Settings(**{name: value}), name)
    assert found == seconds
    assert type(found) is float


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    "value",
    [
        -1,
        "-1s",
        dt.timedelta(seconds=-1),
        float("nan"),
        float("inf"),
        "inf",
        "nan",
        "",
        "m",
        "ten",
        "5w",
        True,
        None,
        [],
    ],
)
def test_what_is_no_duration(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} is a "):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("value", "shown"),
    [(dt.timedelta(days=-60), "-60d"), (dt.timedelta(seconds=-1.5), "-1.5s"), ("-60d", "'-60d'"), (-1, "-1")],
)
def test_a_wrong_duration_is_shown_as_it_is_written(value: Any, shown: str) -> None:
    with pytest.raises(ConfigurationError, match=f"not {shown}$"):
        Settings(history_retention=value)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [0, -1, "0", "1.5", "", "many", 1.0, True, None])
def test_what_is_no_whole_number(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} is a whole number"):
        Settings(**{name: value})


@pytest.mark.parametrize("name", ["strict", "enabled"])
def test_flags(name: str) -> None:
    for text in ("1", "true", "True", "YES", "on"):
        assert getattr(Settings.from_environment({ENVIRONMENT_PREFIX + name.upper(): text}), name) is True
    for text in ("0", "false", "False", "NO", "off"):
        assert getattr(Settings.from_environment({ENVIRONMENT_PREFIX + name.upper(): text}), name) is False
    wrong: list[Any] = ["", "maybe", 1, 0, None]
    for value in wrong:
        with pytest.raises(ConfigurationError, match=f"^{name} is true or false"):
            Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("user_id_type", "int", "one of 'uuid', 'integer', 'string', not 'int'"),
        ("user_id_type", None, "one of 'uuid', 'integer', 'string', not None"),
        ("history", "week", "one of 'day', 'hour', None, not 'week'"),
        ("history", [], "one of 'day', 'hour', None, not "),
        ("schema", "x" * 101, "at most 100 characters"),
        ("schema", 5, "is a str"),
        ("service", "a\0b", "at most 100 characters"),
        ("service", "x" * 101, "at most 100 characters"),
        ("service", None, "is a str"),
        ("journal", 5, "is a directory, not 5"),
        ("journal", "", "is a directory, not ''"),
        ("before_track", 5, "is a callable, or 'module:name' of one, not 5"),
        ("before_track", "usage_instrument.nothing:here", "cannot be imported"),
        ("before_track", "usage_instrument:nothing", "cannot be imported"),
    ],
)
def test_wrong_values_are_named(name: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} is ") as raised:
        Settings(**{name: value})
    assert said in str(raised.value)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match="flush_rows"):
        Settings.from_environment({"USAGE_INSTRUMENT_FLUSH_ROWS": "lots"})
    with pytest.raises(ConfigurationError, match=r"^\$USAGE_INSTRUMENT_FLUSH_ROWS: flush_rows is "):
        Settings.from_environment({"USAGE_INSTRUMENT_FLUSH_ROWS": "0"})


def test_tells_variables_that_set_nothing() -> None:
    environ = {"USAGE_INSTRUMENT_FLUSH_INTERVALL": "1", "USAGE_INSTRUMENT_X": "1", "USAGE_INSTRUMENT_SERVICE": "web"}
    assert misspelt({**environ, "USAGE_INSTRUMENT_DATABASE_URL": "sqlite:///x.db", "HOME": "/"}) == [
        "$USAGE_INSTRUMENT_FLUSH_INTERVALL is no setting; did you mean $USAGE_INSTRUMENT_FLUSH_INTERVAL?",
        "$USAGE_INSTRUMENT_X is no setting",
    ]


def test_what_is_raised_is_ours_and_a_value_error() -> None:
    with pytest.raises(ValueError) as raised:
        Settings(flush_rows=0)
    assert isinstance(raised.value, UsageInstrumentError)


def test_a_path_is_a_journal(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings(journal=tmp_path).journal == str(tmp_path)
    monkeypatch.chdir(tmp_path)
    for given in (Settings(journal="j"), Settings.from_environment({"USAGE_INSTRUMENT_JOURNAL": "./j"})):
        assert given.journal == str(tmp_path / "j"), "wherever the process goes later"


def test_an_unknown_name_suggests_the_near_one() -> None:
    with pytest.raises(TypeError, match="'flush_intervall' is no setting; did you mean 'flush_interval'"):
        Settings.from_environment({}, flush_intervall=3)  # type: ignore[call-arg]


def test_an_unknown_name_like_no_other_lists_all() -> None:
    with pytest.raises(TypeError, match="'zzz' is no setting; the settings are audit_key, audit_timeout, before_track"):
        Settings.from_environment({}, zzz=3)  # type: ignore[call-arg]


def test_the_options_are_the_fields_with_wider_types() -> None:
    fields = {field.name: str(field.type) for field in dataclasses.fields(Settings)}
    options = {
        name: str(getattr(kind, "__forward_arg__", kind)) for name, kind in SettingOptions.__annotations__.items()
    }
    assert list(options) == list(fields)
    wider = {"float": "Duration", "Callable[[Use], Use | None] | None": "Callable[[Use], Use | None] | str | None"}
    special = {
        "journal": "str | os.PathLike[str] | None",
        "read_timeout": "Duration | None",
        "history_months_after": "Duration | None",
    }
    assert options == {name: special.get(name, wider.get(kind, kind)) for name, kind in fields.items()}


def test_settings_are_frozen_and_compare() -> None:
    assert Settings(flush_interval=60) == Settings(flush_interval="1m")
    assert Settings(service="a") != Settings(service="b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().service = "x"  # type: ignore[misc]
