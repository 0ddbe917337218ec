"""Prints reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .reports import Report


@dataclass(frozen=True)
class Stdout:
    """One line a report, as text or as JSON."""

    name: str
    format: Literal["text", "json"] = "text"

    def send(self, reports: Sequence[Report]) -> None:
        """Print them."""
        for report in reports:
            sys.stdout.write((json.dumps(report.as_json()) if self.format == "json" else report.text) + "\n")
        sys.stdout.flush()
