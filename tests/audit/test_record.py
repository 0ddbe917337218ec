"""An access as a row: what cannot be recorded is listed, and erased users have pseudonyms."""

from __future__ import annotations

import json
import uuid
from typing import Any

from usage_instrument.audit.record import recordable, without_erased_users
from usage_instrument.events import Access, Use, canonical_user

ADA, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)
ACCESS = Access(uuid.UUID(int=5), "success", 1_700_000_000_000_000, BOB, "s11")


def made(user: Any, metadata: Any = None, access: Access = ACCESS) -> Use:
    return recordable(Use("open_vault", user, metadata, 1, access), access, canonical_user("uuid"), 100)


def test_ids_take_the_type_of_the_column() -> None:
    use = made(str(ADA), {"drawer": 1}, ACCESS._replace(actor=str(BOB)))
    assert use == Use("open_vault", ADA, '{"drawer":1}', 0, ACCESS)


def test_the_metadata_lists_what_cannot_be_recorded() -> None:
    use = made(7, {"text": "x" * 200}, ACCESS._replace(actor="nobody"))
    assert use.access is not None
    assert (use.user, use.access.actor) == (None, None)
    issues = json.loads(str(use.metadata))["usage_instrument"]
    assert [issue.partition(":")[0] for issue in issues[:2]] == ["user", "actor"]
    assert "metadata_max_bytes" in issues[2]


def test_a_pseudonym_replaces_an_erased_user_and_the_details() -> None:
    use = without_erased_users(made(ADA, {"drawer": 1}), lambda user: "0123" if user == ADA else None)
    assert json.loads(str(use.metadata)) == {"usage_instrument": ["user: forgotten, 0123"]}
    assert (use.user, use.access) == (None, ACCESS._replace(request_id=None))


def test_other_users_stay_as_they_are() -> None:
    use = made(ADA, {"drawer": 1})
    assert without_erased_users(use, lambda user: None) is use
