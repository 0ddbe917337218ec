"""Jobs for a worker of RQ, which imports this module anew for each of them."""

from __future__ import annotations

import usage_instrument as usage

usage.configure(flush_interval=3600)


@usage.tracks("send_report")
def send(user: int, *, fails: bool = False) -> None:
    """A job with two uses, or with one if it fails midway."""
    usage.track("begin_report", user=user)
    if fails:
        raise RuntimeError("no paper")
