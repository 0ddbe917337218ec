"""An access in the form that a row takes: ids of the column's type, metadata as text. Nothing about it may stop it."""

from __future__ import annotations

import json
from collections.abc import Callable

from usage_instrument.errors import MetadataError, UserIdError
from usage_instrument.events import Access, Use, encode_metadata, fitting_metadata
from usage_instrument.typing import UserId

MISFIT = "usage_instrument"
"""The key of the metadata under which the trail says what could not be recorded."""


def recordable(use: Use, access: Access, canonical: Callable[[UserId], UserId], metadata_max_bytes: int) -> Use:
    """The access with what can be recorded of it; for what cannot, its metadata says so: who did something that is
    audited is better told in part than not at all."""
    misfits = []
    try:
        user = canonical(use.user)
    except UserIdError as error:
        user = None
        misfits.append(f"user: {error}")
    try:
        actor = canonical(access.actor)
    except UserIdError as error:
        actor = None
        misfits.append(f"actor: {error}")
    metadata = None
    if use.metadata:
        try:
            metadata = fitting_metadata(use.metadata, metadata_max_bytes)
        except MetadataError as error:
            misfits.append(str(error))
    if misfits:
        metadata = encode_metadata({**json.loads(metadata or "{}"), MISFIT: misfits})
    return Use(use.feature, user, metadata, 0, access._replace(actor=actor))


def anonymous(use: Use, pseudonym: Callable[[UserId], str | None]) -> Use:
    """The access without whom it tells of, if that is somebody who is forgotten: that there was one stays, and a
    pseudonym in its metadata."""
    access = use.access
    if access is None:
        return use
    user, actor = pseudonym(use.user), pseudonym(access.actor)
    if user is None and actor is None:
        return use
    said = [f"{who}: forgotten, {name}" for who, name in (("user", user), ("actor", actor)) if name is not None]
    access = access._replace(actor=access.actor if actor is None else None, request_id=None)
    return Use(use.feature, use.user if user is None else None, encode_metadata({MISFIT: said}), use.uses, access)
