"""One writer's directory, owned by a lock that the kernel releases with the process, however that ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from usage_instrument.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK = "lock"
_PARKED = "parked"
_DATABASE = "database"
_MAKING = 60.0  # seconds
_REMOTE = (
    *("nfs", "cifs", "smb", "9p", "ceph", "gluster", "lustre", "afs", "sshfs", "s3fs", "gcsfuse", "goofys", "juicefs"),
    *("mountpoint-s3", "rclone", "blobfuse"),
)


class Directory:
    """A directory below the journal's, named by its writer."""

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self._lock: int | None = lock

    @property
    def writer_id(self) -> UUID:
        """The writer that made it."""
        return UUID(self.path.name.removeprefix("."))

    @property
    def unborn(self) -> bool:
        """Whether its maker died over it: it holds nothing."""
        return self.path.name.startswith(".")

    @classmethod
    def create(cls, place: str, writer_id: UUID, database: str) -> Directory:
        """A new one, owned from its first moment: nobody sees it before it is locked. Raises OSError."""
        hidden = Path(place, f".{writer_id.hex}")
        hidden.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        hidden.mkdir(0o700)
        lock = -1
        try:
            lock = _locked(hidden / _LOCK, os.O_CREAT)
            (hidden / _DATABASE).write_text(database, encoding="utf-8")
            path = hidden.with_name(writer_id.hex)
            hidden.rename(path)
        except BaseException:
            if lock >= 0:
                os.close(lock)
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        return cls(path, lock)

    @classmethod
    def adopt(cls, path: Path) -> Directory | None:
        """The directory of a writer that is dead; None if it lives, or if somebody else is at it. Raises OSError."""
        lock = _locked_or_none(path / _LOCK)
        if lock is None:
            with contextlib.suppress(OSError):  # an empty one: somebody was killed while deleting it
                path.rmdir()
            return None
        return cls(path, lock)

    def file(self, name: str) -> Path:
        """The path of one of its files."""
        return self.path / name

    def size(self) -> int:
        """Bytes that its files take."""
        total = 0
        for entry in os.scandir(self.path):
            with contextlib.suppress(FileNotFoundError):
                total += entry.stat().st_size
        return total

    @property
    def database(self) -> str | None:
        """Which database its uses are for, as text without credentials; None if it does not say."""
        try:
            return self.file(_DATABASE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def park(self, reason: str) -> None:
        """Set it aside for a person to look at: nobody adopts it any more. Raises OSError."""
        self.file(_PARKED).write_text(reason + "\n", encoding="utf-8")

    def release(self) -> None:
        """Give up the lock. In a forked child this closes the child's descriptor, and the parent keeps the lock."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def remove(self) -> None:
        """Delete it. The lock goes last: whoever finds the directory without it would take it for one in the making."""
        for path in sorted(self.path.iterdir(), key=lambda path: path.name == _LOCK):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()
        self.release()


def directories(place: str) -> Iterator[Path]:
    """The directories below a journal's, the oldest first. Raises OSError."""
    found = []
    for entry in os.scandir(place):
        if entry.is_dir(follow_symlinks=False) and _is_name(entry.name.removeprefix(".")):
            with contextlib.suppress(FileNotFoundError):
                found.append((entry.stat().st_mtime, entry.path))
    for changed, path in sorted(found):
        # One that is being made is hidden; if it stays so, its maker was killed.
        if not Path(path).name.startswith(".") or changed < time.time() - _MAKING:
            yield Path(path)


def parked_reason(path: Path) -> str | None:
    """Why a directory was set aside; None if it was not."""
    try:
        return (path / _PARKED).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def check_root(place: str) -> None:
    """Raise ConfigurationError where locks and mapped files cannot be trusted: Windows, the network's file systems."""
    if fcntl is None or not hasattr(os, "posix_fallocate"):
        raise ConfigurationError("the journal needs flock and posix_fallocate: leave the setting `journal` unset here")
    kind = _file_system(os.path.realpath(place))
    if kind.removeprefix("fuse.").startswith(_REMOTE):
        raise ConfigurationError(
            f"journal={place!r} is on {kind}, whose locks cannot be trusted: use a local directory"
        )


def _is_name(name: str) -> bool:
    return len(name) == 32 and not set(name) - set("0123456789abcdef")


def _locked(path: Path, flags: int = 0) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        # flock, as lockf would be lost with any other descriptor of the same file.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _locked_or_none(path: Path) -> int | None:
    try:
        descriptor = _locked(path)
    except (BlockingIOError, FileNotFoundError):
        return None
    try:
        same = os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        same = False
    if not same:  # whoever had the lock before has removed the directory
        os.close(descriptor)
        return None
    return descriptor


def _file_system(path: str) -> str:
    """The type of the file system that holds, or will hold, this path; empty where the kernel does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if len(fields) < 5:
            continue
        point = fields[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, kind = point, types[0]
    return kind
