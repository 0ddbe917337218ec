"""The server of the demo: a real uvicorn in its own process, which ends with the demo."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

START_TIMEOUT = 60
"""Seconds until the server must answer."""
STOP_TIMEOUT = 15
"""Seconds for the server to write what is pending and to exit."""


class ServerError(Exception):
    """The server did not start, or did not exit cleanly."""


@contextlib.contextmanager
def running(url: str, log: Path) -> Iterator[int]:
    """Run the calendar on a free port of the loopback, and yield the port. SIGTERM ends it. Raises ServerError."""
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", __name__, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            # Ctrl-C reaches the demo alone, which then ends its server.
            start_new_session=True,
        )
    try:
        yield _port(process, log)
    except BaseException:
        _stop(process, log, orderly=False)
        raise
    _stop(process, log, orderly=True)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    line = process.stdout.readline() if process.stdout is not None else b""
    if not line.strip().isdigit():
        raise ServerError(f"the server did not start:\n{_tail(log)}")
    port = int(line)
    # The socket accepts connections before the app is ready.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
    try:
        connection.request("GET", "/health")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"the server does not answer ({error}):\n{_tail(log)}") from error
    finally:
        connection.close()
    return port


def _stop(process: subprocess.Popen[bytes], log: Path, *, orderly: bool) -> None:
    try:
        if sys.platform != "win32":
            process.terminate()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise ServerError(f"the server did not end within {STOP_TIMEOUT} seconds:\n{_tail(log)}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    # uvicorn raises the signal again after its lifespan.
    if orderly and process.returncode not in {0, -signal.SIGTERM}:
        raise ServerError(f"the server ended with {process.returncode}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def main(url: str) -> None:
    """Serve until SIGTERM, or until the parent process ends."""
    import uvicorn

    from .calendar import create_app

    # asyncio disables Nagle's algorithm only for an explicit IPPROTO_TCP; otherwise each response takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    server = uvicorn.Server(uvicorn.Config(create_app(url), log_level="warning", access_log=False, lifespan="on"))

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
