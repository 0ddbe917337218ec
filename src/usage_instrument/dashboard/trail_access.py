"""Somebody's look at the audit trail: who it is has to be known, and no page of it is shown before that is recorded."""

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

from .errors import Problem


class Look:
    """One request for a page of the trail. Who asks is whom the app's request knows, or whom `authorize_audit` said by
    `usage_instrument.identify`."""

    def __init__(self, recorder: Recorder, carrier: Any, loaded: Callable[[], UserId | Unset]) -> None:
        self.recorder = recorder
        self._request = current_request()
        if self._request is None:  # no middleware of ours is around
            self._request = Request("http", "GET", loaded)
            self._request.info = carrier
        else:
            self._request.add_lookup(loaded)

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """What runs inside may say who it is."""
        token = None if current_request() is self._request else holder.set(self._request)
        try:
            yield
        finally:
            if token is not None:
                holder.reset(token)

    def denied(self) -> None:
        """They may not look. Of somebody who is not even known, there is nothing to record."""
        with contextlib.suppress(Problem):
            self.recorder.record(self.use("denied"))

    def failed(self) -> None:
        """There was nothing to show."""
        self.recorder.record(self.use("failed"))

    def use(self, outcome: Outcome) -> Use:
        """The look as it is recorded. Raises Problem where nobody knows who looks."""
        with self.going_on():
            try:
                user = known_user()
            except UserIdError:
                user = None
            if user is None:
                raise Problem(
                    403,
                    "Nobody knows who you are",
                    "Every look at the audit trail is recorded with who looks. Have `authorize_audit` say so by "
                    "`usage_instrument.identify(user_id)`.",
                )
            access = new_access(outcome)
        # Always with an actor: by that, these rows are found.
        actor = user if access.actor is None else access.actor
        return Use(SELF_ACCESS, user, None, 0, access._replace(actor=actor))


def recorder_of(tracker: Recorder | None) -> Recorder:
    """Who records the looks: a tracker of one's own, or the configured one, which may change."""
    return declared.recorder if tracker is None else tracker
