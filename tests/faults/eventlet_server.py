"""The Flask example under eventlet's own WSGI server, at the port that it is given; SIGTERM ends it."""

from __future__ import annotations

import os

os.environ["EVENTLET_NO_GREENDNS"] = "yes"  # which imports trio, and that does not bear patched sockets

import eventlet

eventlet.monkey_patch()

import importlib
import signal
import sys

import eventlet.wsgi

sys.path.insert(0, sys.argv[1])


def main() -> None:
    app = importlib.import_module("flask_app").app

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    eventlet.wsgi.server(eventlet.listen(("127.0.0.1", int(sys.argv[2]))), app, log_output=False)


if __name__ == "__main__":
    main()
