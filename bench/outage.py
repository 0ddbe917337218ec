"""What a request costs while the database is away, with the package and without. Run it: python bench/outage.py

Two servers with the same small app, one of them counted, are asked in turn by one client, so that what slows the
machine slows both alike. Trust the ratios; the microseconds are this machine's, now.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

KINDS = ("bare", "counted")
OUTAGES = ("refused", "silent")
WARM_UP = 500
"""Requests to each that are not counted in: the first ones import, and start the threads."""


def serve(kind: str, port: int, database: str, journal: str) -> None:
    """Run one of the two servers, until it is ended."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    import usage_instrument as usage
    from usage_instrument.asgi import UsageMiddleware

    async def event(request: Request) -> Response:
        if kind == "counted":
            usage.identify(request.path_params["number"])
        return JSONResponse({"event": request.path_params["number"]})

    async def figures(request: Request) -> Response:
        return JSONResponse({"captured": usage.stats().captured, "pending": usage.stats().pending})

    if kind == "counted":
        usage.configure(database, user_id_type="integer", flush_interval=0.5, journal=journal or None)
    counted = [Middleware(UsageMiddleware, exclude=["/figures"])] if kind == "counted" else []
    routes = [Route("/events/{number:int}", event), Route("/figures", figures)]
    uvicorn.run(Starlette(routes=routes, middleware=counted), port=port, log_level="critical")


class Client:
    """A connection that is kept to one of them."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        deadline = time.monotonic() + 30
        while True:
            try:
                self._connection.connect()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        return self._connection.getresponse().read()

    def timed(self, number: int) -> float:
        """Microseconds of one request of one of a thousand users."""
        start = time.perf_counter()
        self.get(f"/events/{number % 1000}")
        return (time.perf_counter() - start) * 1e6


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def away(outage: str) -> Iterator[str]:
    """The URL of a database that nobody serves, or whose server takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1] if outage == "silent" else free_port()
        yield f"postgresql+psycopg://nobody@127.0.0.1:{port}/nowhere"


def measure(seconds: float, outage: str, journal: str) -> tuple[dict[str, list[float]], dict[str, int]]:
    """The microseconds of every request by kind of server, and what the counted one says of itself."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with away(outage) as database, ExitStack() as stack:
        clients = {}
        for kind in KINDS:
            port = free_port()
            command = [sys.executable, __file__, "--serve", kind, str(port), database, journal]
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.terminate)
            clients[kind] = Client(port)
        for number in range(WARM_UP):
            for kind in KINDS:
                clients[kind].timed(number)
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            number += 1
            for kind in KINDS if number % 2 else reversed(KINDS):
                times[kind].append(clients[kind].timed(number))
        return times, json.loads(clients["counted"].get("/figures"))


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        kind, port, database, journal = sys.argv[2:]
        serve(kind, int(port), database, journal)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each outage (default 20)")
    parser.add_argument("--journal", action="store_true", help="count with a journal")
    options = parser.parse_args()
    print(f"{'':10}{'':>10}{'bare':>10}{'counted':>10}{'ratio':>8}")
    for outage in OUTAGES:
        with tempfile.TemporaryDirectory() as directory:
            times, figures = measure(options.seconds, outage, directory if options.journal else "")
        quantiles = {kind: statistics.quantiles(times[kind], n=1000) for kind in KINDS}
        for name, at in (("p50", 499), ("p99", 989), ("p99.9", 998)):
            bare, counted = (quantiles[kind][at] for kind in KINDS)
            print(f"{outage:10}{name:>10}{bare:7.0f} µs{counted:7.0f} µs{counted / bare:8.2f}")
        print(f"{outage:10}{len(times['bare']):,} requests to each; the counted one says {figures}")


if __name__ == "__main__":
    main()
