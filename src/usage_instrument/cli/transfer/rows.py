"""The rows of a file to import: read as a stream, checked one by one."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from usage_instrument.dashboard.csv import plain
from usage_instrument.errors import ConfigurationError, FeatureNameError, UserIdError
from usage_instrument.events import canonical_user, check_feature
from usage_instrument.typing import UserId, UserIdType

from .parquet import in_microseconds, pyarrow

REQUIRED = ("user_id", "feature_name", "usage_count")
COLUMNS = (*REQUIRED, "last_used", "day")
MOST_USES = 2**31 - 1
_CHUNK = 2_000
"""Rows in one transaction. A constant: the batches of an import have the same content in each run."""
_ZERO = dt.time()
_EXACT = 2**53
"""Whole numbers from here on may have been rounded as a float."""


class Row(NamedTuple):
    """A checked row."""

    line: int
    user: UserId
    feature: str
    uses: int
    last_used: dt.datetime
    """UTC, naive."""
    day: dt.date | None


class BadRow(NamedTuple):
    """A row that cannot be imported."""

    line: int
    reason: str


def digest(path: Path) -> str:
    """A hash of the content of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def chunks(
    path: Path, user_id_type: UserIdType, now: dt.datetime, unknown: dt.datetime
) -> Iterator[list[Row | BadRow]]:
    """The rows of a file, of each transaction; `unknown` is the last use of a row that names no time.

    Raises ConfigurationError for a wrong header, and OSError.
    """
    is_parquet = path.suffix.lower() in (".parquet", ".pq")
    names, records = (_of_parquet if is_parquet else _of_csv)(path)
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ConfigurationError(
            f"{path} has no column {', '.join(missing)}: the columns are {', '.join(COLUMNS)}, of which the last two "
            f"are optional, with commas between them; it has {', '.join(map(repr, names)) or 'none'}"
        )
    canonical = canonical_user(user_id_type)
    has_days = "day" in names
    checked = (_checked(line, record, canonical, has_days, now, unknown) for line, record in records)
    while chunk := list(islice(checked, _CHUNK)):
        yield chunk


def _of_csv(path: Path) -> tuple[Sequence[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    def records() -> Iterator[tuple[int, Mapping[str, Any]]]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            try:
                for record in reader:
                    for name in ("user_id", "feature_name"):
                        if record.get(name):
                            record[name] = plain(record[name])  # dump writes `'` before what looks like a formula
                    yield reader.line_num, record
            except csv.Error as error:
                raise ConfigurationError(f"{path}, after line {reader.line_num}: is no CSV: {error}") from None
            except UnicodeDecodeError:
                raise ConfigurationError(f"{path}, after line {reader.line_num}: is not UTF-8") from None

    with path.open(encoding="utf-8-sig", newline="", errors="replace") as file:
        try:
            names = next(csv.reader(file), [])
        except csv.Error as error:
            raise ConfigurationError(f"{path}, line 1: is no CSV: {error}") from None
    return names, records()


def _of_parquet(path: Path) -> tuple[Sequence[str], Iterable[tuple[int, Mapping[str, Any]]]]:
    arrow = pyarrow()
    try:
        file = arrow.parquet.ParquetFile(path)
    except arrow.lib.ArrowInvalid as error:
        raise ConfigurationError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from None
    names: list[str] = file.schema_arrow.names

    def records() -> Iterator[tuple[int, Mapping[str, Any]]]:
        line = 0
        try:
            with file:
                for batch in file.iter_batches(_CHUNK, columns=[name for name in COLUMNS if name in names]):
                    for record in in_microseconds(batch).to_pylist():
                        line += 1
                        yield line, record
        except arrow.ArrowException as error:
            raise ConfigurationError(f"{path}, after row {line}: is damaged: {str(error).splitlines()[0]}") from None

    return names, records()


def _checked(
    line: int,
    record: Mapping[str, Any],
    canonical: Callable[[UserId], UserId],
    has_days: bool,
    now: dt.datetime,
    unknown: dt.datetime,
) -> Row | BadRow:
    if None in record:  # as csv.DictReader keeps them
        return BadRow(line, "there are more values than columns")
    try:
        day = _day(record["day"]) if has_days else None
        last_used = _moment(record.get("last_used"), day, now, unknown)
        return Row(
            line,
            _user(record["user_id"], canonical),
            check_feature(record["feature_name"]),
            _uses(record["usage_count"]),
            last_used,
            day,
        )
    except FeatureNameError as error:
        return BadRow(line, f"feature_name: {error}")
    except UserIdError as error:
        return BadRow(line, f"user_id: {error}")
    except ValueError as error:
        return BadRow(line, str(error))


def _user(value: Any, canonical: Callable[[UserId], UserId]) -> UserId:
    """A user id, or None. Parquet has ids in other types than ours; what may have been rounded is refused."""
    value = _whole(value)
    if value is None or value in ("", "anonymous"):
        return None
    if isinstance(value, bytes) and len(value) == 16:
        value = UUID(bytes=value)
    if isinstance(value, bool) or not isinstance(value, int | str | UUID):
        raise UserIdError(f"a text, a whole number or a UUID, not {value!r}")
    return canonical(value if isinstance(value, int) else str(value))


def _whole(value: Any) -> Any:
    """A float or Decimal without a fraction as an int; anything else as it is."""
    is_exact = isinstance(value, Decimal) or (isinstance(value, float) and abs(value) < _EXACT)
    return int(value) if is_exact and value % 1 == 0 else value


def _uses(value: Any) -> int:
    try:
        uses = int(value) if isinstance(value, str) else _whole(value)
    except ValueError:
        uses = None
    if isinstance(uses, bool) or not isinstance(uses, int) or not 1 <= uses <= MOST_USES:
        raise ValueError(f"usage_count is a whole number from 1 to {MOST_USES}, not {value!r}")
    return uses


def _day(value: Any) -> dt.date:
    try:
        day = dt.date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        day = None
    if isinstance(day, dt.datetime) and day.time() == _ZERO:
        day = day.date()
    if not isinstance(day, dt.date) or isinstance(day, dt.datetime):
        raise ValueError(f"day is a date such as 2026-01-31, not {value!r}")
    return day


def _moment(value: Any, day: dt.date | None, now: dt.datetime, unknown: dt.datetime) -> dt.datetime:
    """The last use: as given, but not before the day, else the day."""
    try:
        moment = dt.datetime.fromisoformat(value) if isinstance(value, str) and value else value
    except ValueError:
        moment = value
    if moment in (None, ""):
        moment = unknown if day is None else dt.datetime.combine(day, _ZERO)
    if not isinstance(moment, dt.datetime):
        raise ValueError(f"last_used is a time such as 2026-01-31T08:00:00 (UTC without an offset), not {value!r}")
    if moment.tzinfo is not None:
        try:
            moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
        except OverflowError:
            raise ValueError(f"last_used is beyond the years 1 to 9999 in UTC: {value!r}") from None
    latest = max(moment, dt.datetime.combine(day, _ZERO) if day is not None else moment)
    if latest > now + dt.timedelta(minutes=5):
        raise ValueError(f"{latest.isoformat(' ')} is in the future")
    return latest
