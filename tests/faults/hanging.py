"""A WSGI app that answers, and that hangs: in Python code, or where only SIGKILL helps."""

from __future__ import annotations

import ctypes
import signal
import time
from collections.abc import Iterable

import usage_instrument as usage
from usage_instrument.typing import Environ, StartResponse
from usage_instrument.wsgi import UsageMiddleware

usage.configure(flush_interval=60)


def _app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/python":
        time.sleep(3600)
    if environ["PATH_INFO"] == "/c":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGABRT})
        ctypes.PyDLL(None).sleep(3600)  # it keeps the interpreter's lock
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]


app = UsageMiddleware(_app, features={"GET /": "home"})
