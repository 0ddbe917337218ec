"""Damages the journal's three files, guided by coverage: `python tests/faults/fuzz_journal.py -runs=20000`.

Needs `atheris`, which `scripts/faults` installs where there is one for this Python. The tests of hypothesis in
`tests/pipeline/journal/test_fuzz.py` have the same oracle, and run everywhere.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["usage_instrument.pipeline"]):
    from pipeline.journal.test_fuzz import MARK, aggregated, journal

FILES = ["00000000.log", "00000000.slots", "frame"]


def damage(data: bytes) -> None:
    """One run: put bytes into one of the files, half of the time as a record with a right checksum."""
    provider = atheris.FuzzedDataProvider(data)
    name, is_record = provider.PickValueInList(FILES), provider.ConsumeBool()
    where, length = provider.ConsumeProbability(), provider.ConsumeIntInRange(0, 40)
    inserted = provider.ConsumeBytes(len(data))
    if is_record:
        inserted = MARK + len(inserted).to_bytes(4, "little") + zlib.crc32(inserted).to_bytes(4, "little") + inserted
    with journal() as path:
        content = (path / name).read_bytes()
        at = int(where * len(content))
        (path / name).write_bytes(content[:at] + inserted + content[at + length :])
        aggregated(path)


if __name__ == "__main__":
    atheris.Setup(sys.argv, damage)
    atheris.Fuzz()
