"""The directories below the journal's root: one for each writer, which holds its lock as long as its process lives.

The kernel releases the lock with the process, however that ends. The root and the directories belong to this process's
user, and nobody else can write to them: a snapshot that another user plants would become counts and signed accesses.
Files are opened relative to the directory itself, without following a link and without waiting for a pipe.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from usage_instrument.errors import ConfigurationError

from .records import CorruptJournalError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK = "lock"
_PARKED = "parked"
_DATABASE = "database"
_CREATION = 60.0
"""Seconds after which a directory that is still hidden belongs to a process that was killed while it made it."""
_LARGEST = 2**30
"""Bytes that a file has at most; segments are renewed at a small part of it."""
_REMOTE = (
    *("nfs", "cifs", "smb", "9p", "ceph", "gluster", "lustre", "afs", "sshfs", "s3fs", "gcsfuse", "goofys", "juicefs"),
    *("mountpoint-s3", "rclone", "blobfuse"),
)


class IrregularFileError(CorruptJournalError, OSError):
    """A link, a pipe, a directory or a device stands where the journal has a file."""


class UntrustedDirectoryError(OSError):
    """A directory belongs to another user, or others can write to it."""


class Directory:
    """One writer's directory. It is hidden until its lock and its database are written."""

    def __init__(self, path: Path, identity: tuple[int, int]) -> None:
        self.path = path
        self._identity = identity
        self._lock: int | None = None

    @property
    def writer_id(self) -> UUID:
        """The writer that made it."""
        return writer_of(self.path)

    @property
    def is_incomplete(self) -> bool:
        """Whether its process was killed while it made the directory, which then holds no use."""
        return self.path.name.startswith(".")

    @classmethod
    def open(cls, path: Path) -> Directory:
        """A journal to read, also while another process holds its lock. Raises OSError."""
        with _opened(path, os.O_NOFOLLOW) as (descriptor, identity):
            _check_trusted(path, os.fstat(descriptor))
            return cls(path, identity)

    @classmethod
    def create(cls, root: str, writer_id: UUID, database: str) -> Directory:
        """A new one, whose lock is held before another process sees it. Raises OSError."""
        hidden = Path(root, f".{writer_id.hex}")
        hidden.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_trusted(hidden.parent, hidden.parent.stat())
        hidden.mkdir(0o700)
        directory = cls.open(hidden)
        try:
            directory._lock = directory._locked(os.O_CREAT)
            directory.write(_DATABASE, database)
            directory.path = hidden.with_name(writer_id.hex)
            hidden.rename(directory.path)
        except BaseException:
            directory.path = hidden
            with contextlib.suppress(OSError):
                directory.remove()
            raise
        return directory

    @classmethod
    def adopt(cls, path: Path) -> Directory | None:
        """The directory of a dead writer, with its lock. None while the writer lives, or another process has adopted
        it. Raises OSError."""
        try:
            directory = cls.open(path)
        except FileNotFoundError:
            return None
        try:
            lock = directory._locked()
        except BlockingIOError:
            return None
        except FileNotFoundError:
            with contextlib.suppress(OSError):  # an empty one: a process was killed while it deleted the directory
                path.rmdir()
            return None
        if not directory._holds(lock):
            os.close(lock)
            return None
        directory._lock = lock
        return directory

    def _locked(self, flags: int = 0) -> int:
        descriptor = self.open_file(_LOCK, os.O_RDWR | flags)
        try:
            lock_file(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _holds(self, lock: int) -> bool:
        """Whether the directory still has this lock: the process that held it before may have deleted both."""
        try:
            with self._descriptor() as here:
                return os.path.samestat(os.fstat(lock), os.stat(_LOCK, dir_fd=here, follow_symlinks=False))
        except FileNotFoundError:
            return False

    @property
    def has_lock(self) -> bool:
        """Whether there is a lock. Without one, it is unknown whether the writer lives. Raises OSError."""
        return _LOCK in self.names

    # ---- files

    @contextlib.contextmanager
    def _descriptor(self) -> Iterator[int]:
        """Raises OSError if another directory is in its place by now."""
        with _opened(self.path, os.O_NOFOLLOW) as (descriptor, identity):
            if identity != self._identity:
                raise FileNotFoundError(errno.ENOENT, "another directory is in its place", str(self.path))
            yield descriptor

    def open_file(self, name: str, flags: int) -> int:
        """A descriptor of one of its files. Raises OSError."""
        try:
            with self._descriptor() as here:
                flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(name, flags, 0o600, dir_fd=here)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR}:
                raise IrregularFileError(f"{self.path / name} is no regular file") from error
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise IrregularFileError(f"{self.path / name} is no regular file")
        return descriptor

    def read(self, name: str) -> bytes:
        """The content of a file. Raises OSError, CorruptJournalError."""
        with os.fdopen(self.open_file(name, os.O_RDONLY), "rb") as file:
            if os.fstat(file.fileno()).st_size > _LARGEST:
                raise CorruptJournalError(f"{self.path / name} is larger than {_LARGEST} bytes")
            return file.read()

    def write(self, name: str, text: str) -> None:
        """Write a small file. Raises OSError."""
        with os.fdopen(self.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as file:
            file.write(text)

    def rename(self, name: str, to: str) -> None:
        """Put a file in the place of another one. Raises OSError."""
        with self._descriptor() as here:
            os.rename(name, to, src_dir_fd=here, dst_dir_fd=here)

    def take_over(self, source: Directory, name: str, to: str, *, keep: bool = False) -> None:
        """Move a file of another directory here in one step; `keep` leaves it there as well. Raises OSError."""
        with source._descriptor() as there, self._descriptor() as here:
            if keep:
                os.link(name, to, src_dir_fd=there, dst_dir_fd=here, follow_symlinks=False)
            else:
                os.rename(name, to, src_dir_fd=there, dst_dir_fd=here)

    def link(self, name: str, to: str) -> None:
        """Give a file a second name. Raises OSError."""
        with self._descriptor() as here:
            os.link(name, to, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)

    def unlink(self, *names: str) -> None:
        """Delete files that may be gone already. Raises OSError."""
        with self._descriptor() as here:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=here)

    @property
    def names(self) -> list[str]:
        """The names of its files, sorted. Raises OSError."""
        with self._descriptor() as here, os.scandir(here) as entries:
            return sorted(entry.name for entry in entries)

    def size_of(self, name: str) -> int:
        """Bytes of one file. Raises OSError."""
        with self._descriptor() as here:
            return os.stat(name, dir_fd=here, follow_symlinks=False).st_size

    @property
    def size(self) -> int:
        """Bytes that its files take. Raises OSError."""
        total = 0
        with self._descriptor() as here, os.scandir(here) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
        return total

    @property
    def database(self) -> str | None:
        """The database of its uses, as text without credentials; None if it is not recorded. Raises OSError."""
        return self._text(_DATABASE)

    @property
    def parked_reason(self) -> str | None:
        """Why it was parked; None if it was not. Raises OSError."""
        return self._text(_PARKED)

    def _text(self, name: str) -> str | None:
        try:
            return self.read(name).decode(errors="replace").strip()
        except FileNotFoundError:
            return None
        except CorruptJournalError as error:
            return str(error)

    def park(self, reason: str) -> None:
        """Set it aside for a person: no process adopts it any more. Raises OSError."""
        self.write(_PARKED, reason + "\n")

    def release(self) -> None:
        """Give up the lock. In a forked child this closes the child's descriptor, and the parent keeps the lock."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def hand_over(self) -> None:
        """Give up the lock in every process that has inherited it: a collector adopts the directory."""
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        self.release()

    def remove(self) -> None:
        """Delete it, the lock last: a directory without a lock is taken for one that is being made. Raises OSError."""
        try:
            for name in sorted(self.names, key=lambda name: name == _LOCK):
                with contextlib.suppress(IsADirectoryError, PermissionError):  # it is not ours
                    self.unlink(name)
            with contextlib.suppress(OSError):
                self.path.rmdir()
        finally:
            self.release()


def lock_file(descriptor: int) -> None:
    """Lock a file as long as this process has the descriptor. Raises BlockingIOError if another one has, OSError."""
    # flock, as lockf would be lost with any other descriptor of the same file.
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def directories(root: str) -> Iterator[Path]:
    """The writers' directories, the oldest first. Raises OSError."""
    found = []
    with _opened(Path(root)) as (descriptor, _), os.scandir(descriptor) as entries:
        _check_trusted(root, os.fstat(descriptor))
        for entry in entries:
            if _is_name(entry.name.removeprefix(".")):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        found.append((status.st_mtime, entry.name))
    for changed, name in sorted(found):
        if not name.startswith(".") or changed < time.time() - _CREATION:
            yield Path(root, name)


def writer_of(path: Path) -> UUID:
    """The writer that a directory is named by."""
    return UUID(path.name.removeprefix("."))


def parked_reason(path: Path) -> str | None:
    """Why no process recovers a directory: it was parked, or cannot be trusted. None otherwise. Raises OSError."""
    try:
        return Directory.open(path).parked_reason
    except FileNotFoundError:
        return None
    except UntrustedDirectoryError as error:
        return str(error)


def check_root(root: str) -> None:
    """Raise ConfigurationError for a root that cannot be trusted: on Windows or a network file system, or open to
    others. Root may configure for the user that it becomes later; then the first use checks the owner."""
    if fcntl is None or not hasattr(os, "posix_fallocate"):
        system = {"win32": "Windows", "darwin": "macOS"}.get(sys.platform, sys.platform)
        raise ConfigurationError(f"the journal needs Linux, and this is {system}: leave the setting `journal` unset")
    kind = _file_system(os.path.realpath(root))
    if kind.removeprefix("fuse.").startswith(_REMOTE):
        raise ConfigurationError(f"journal={root!r} is on {kind}, whose locks cannot be trusted: use a local directory")
    try:
        status = Path(root).stat()
        _check_trusted(root, status, status.st_uid if os.geteuid() == 0 else os.geteuid())
    except UntrustedDirectoryError as error:
        raise ConfigurationError(f"the journal cannot be kept there: {error}") from None
    except OSError:  # the first use makes it
        pass


def _check_trusted(path: Path | str, status: os.stat_result, owner: int | None = None) -> None:
    """Raises UntrustedDirectoryError unless `owner`, by default this process's user, alone can write there."""
    owner = os.geteuid() if owner is None else owner
    if status.st_uid != owner:
        raise UntrustedDirectoryError(
            f"{path} belongs to the user {status.st_uid}, and this process is {owner}: run it as that user, or use a "
            "directory of its own"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedDirectoryError(
            f"{path} is writable for others (mode {stat.S_IMODE(status.st_mode):o}): run `chmod go-w {path}`, or use a "
            "directory of its own"
        )


@contextlib.contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[tuple[int, tuple[int, int]]]:
    """A directory's descriptor, and its device and inode. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags)
    try:
        status = os.fstat(descriptor)
        yield descriptor, (status.st_dev, status.st_ino)
    finally:
        os.close(descriptor)


def _is_name(name: str) -> bool:
    return len(name) == 32 and not set(name) - set("0123456789abcdef")


def _file_system(path: str) -> str:
    """The type of the file system that holds, or will hold, this path; empty where the kernel does not report it."""
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
