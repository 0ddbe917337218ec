"""A process that ends while its database does not answer: `leaver.py URL JOURNAL`. It waits for a line before that."""

from __future__ import annotations

import sys

import usage_instrument as usage


def main() -> None:
    url, journal = sys.argv[1:]
    usage.configure(url, journal=journal or None, shutdown_timeout=1)
    usage.track("f")
    print(usage.flush(60), flush=True)
    sys.stdin.readline()
    usage.track("f", count=5)


if __name__ == "__main__":
    main()
