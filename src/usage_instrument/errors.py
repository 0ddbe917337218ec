"""The exceptions of the package; a class's docstring is its default message."""

from __future__ import annotations

__all__ = [
    "AuditError",
    "AuditUnavailable",
    "ConfigurationError",
    "CountError",
    "DeclarationError",
    "DimensionError",
    "ExperimentError",
    "FeatureNameError",
    "IdentifiedUserError",
    "MetadataError",
    "SchemaError",
    "UnknownUserError",
    "UsageInstrumentError",
    "UserIdError",
]


class UsageInstrumentError(Exception):
    """usage-instrument failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class ConfigurationError(UsageInstrumentError, ValueError):
    """A setting is wrong."""


class SchemaError(UsageInstrumentError):
    """The database's tables are not the ones this release writes to; run `usage-instrument db check`."""


class FeatureNameError(UsageInstrumentError, ValueError):
    """A feature name has 1 to 100 characters and no NUL."""


class UserIdError(UsageInstrumentError, TypeError):
    """A user id is a UUID, an int, a str or None."""


class CountError(UsageInstrumentError, ValueError):
    """A count is a whole number of at least 1."""


class MetadataError(UsageInstrumentError, TypeError):
    """Metadata is a JSON object: a mapping with str keys and values that JSON can carry."""


class DimensionError(UsageInstrumentError, TypeError):
    """Dimensions are a mapping from names to scalars, and a value is a finite number."""


class AuditError(UsageInstrumentError, ValueError):
    """The audit trail is inconsistent."""


class AuditUnavailable(UsageInstrumentError):  # noqa: N818 - the state of a service, not a mistake
    """The access cannot be recorded, so it did not happen."""

    status_code = 503
    """The status of a web app's answer."""

    @classmethod
    def of(cls, feature: str, reason: str) -> AuditUnavailable:
        """The error of a feature that was not called for this reason."""
        return cls(f"{feature!r} was not called, as the access could not be recorded: {reason}")


class UnknownUserError(UsageInstrumentError, LookupError):
    """No data of this user exists."""


class IdentifiedUserError(UsageInstrumentError, ValueError):
    """The guest is in the users table; to merge two users, pass force=True."""


class DeclarationError(UsageInstrumentError, TypeError):
    """A feature is declared wrongly."""


class ExperimentError(UsageInstrumentError, ValueError):
    """An experiment is declared wrongly."""


def describe(error: Exception) -> str:
    """The message of our own error, else only the type: a message of the host may hold personal data."""
    return str(error) if isinstance(error, UsageInstrumentError) else f"{type(error).__name__} raised"
