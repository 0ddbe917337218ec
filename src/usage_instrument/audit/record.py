"""Converts an access into the form of a row: ids of the column's type, metadata as JSON text."""

from __future__ import annotations

import json
from collections.abc import Callable

from usage_instrument.errors import MetadataError, UserIdError
from usage_instrument.events import Access, Use, encode_metadata, fitting_metadata
from usage_instrument.typing import UserId

ISSUES = "usage_instrument"
"""The metadata key under which a row lists what could not be recorded."""


def recordable(use: Use, access: Access, canonical: Callable[[UserId], UserId], metadata_max_bytes: int) -> Use:
    """The access with everything that can be recorded; its metadata lists the rest. An incomplete row is better than
    none."""
    issues = []

    def id_of(name: str, given: UserId) -> UserId:
        try:
            return canonical(given)
        except UserIdError as error:
            issues.append(f"{name}: {error}")
            return None

    user, actor = id_of("user", use.user), id_of("actor", access.actor)
    metadata = None
    if use.metadata:
        try:
            metadata = fitting_metadata(use.metadata, metadata_max_bytes)
        except MetadataError as error:
            issues.append(str(error))
    if issues:
        metadata = encode_metadata({**json.loads(metadata or "{}"), ISSUES: issues})
    return Use(use.feature, user, metadata, 0, access._replace(actor=actor))


def without_erased_users(use: Use, pseudonym: Callable[[UserId], str | None]) -> Use:
    """The access, with pseudonyms in its metadata instead of a user or actor who has been erased."""
    access = use.access
    if access is None:
        return use
    user, actor = pseudonym(use.user), pseudonym(access.actor)
    if user is None and actor is None:
        return use
    names = [f"{part}: forgotten, {name}" for part, name in (("user", user), ("actor", actor)) if name is not None]
    access = access._replace(actor=access.actor if actor is None else None, request_id=None)
    return Use(use.feature, use.user if user is None else None, encode_metadata({ISSUES: names}), use.uses, access)
