"""An access to the audit trail's pages: its user must be known, and it is recorded before a page is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from usage_instrument.audit.self_access import SELF_ACCESS
from usage_instrument.capture.context import Request, current_request, holder, known_user
from usage_instrument.capture.recording import new_access
from usage_instrument.capture.registry import Recorder, declared
from usage_instrument.errors import UserIdError
from usage_instrument.events import Use
from usage_instrument.typing import Outcome, Unset, UserId

from .errors import PageError


class TrailAccess:
    """One request for a page of the trail.

    The user is the one of the app's request, or the one that `authorize_audit` names by `usage_instrument.identify`.
    """

    def __init__(self, tracker: Recorder | None, given: Any, framework_user: Callable[[], UserId | Unset]) -> None:
        self.recorder = declared.recorder if tracker is None else tracker  # the configured one may change
        self._request = current_request()
        if self._request is None:  # there is no UsageMiddleware
            self._request = Request("http", "GET", lambda _: framework_user(), given)
        else:
            self._request.add_lookup(framework_user)

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """`identify` inside names the user of this access."""
        token = None if current_request() is self._request else holder.set(self._request)
        try:
            yield
        finally:
            if token is not None:
                holder.reset(token)

    def record_denied(self) -> None:
        """Record that the user may not look. There is nothing to record of an unknown user."""
        with contextlib.suppress(PageError):
            self.recorder.record(self.use("denied"))

    def record_failed(self) -> None:
        """Record that there was nothing to show."""
        self.recorder.record(self.use("failed"))

    def use(self, outcome: Outcome) -> Use:
        """The access as it is recorded. Raises PageError for an unknown user."""
        with self.context():
            try:
                user = known_user()
            except UserIdError:
                user = None
            if user is None:
                raise PageError(
                    403,
                    "Your user is unknown",
                    "Each look at the audit trail is recorded with its user. Call `usage_instrument.identify(user_id)` "
                    "in `authorize_audit`.",
                )
            access = new_access(outcome)
        # With an actor always: an index finds these rows by it.
        actor = user if access.actor is None else access.actor
        return Use(SELF_ACCESS, user, None, 0, access._replace(actor=actor))
