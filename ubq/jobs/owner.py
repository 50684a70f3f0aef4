"""Who holds a run: the lock that one process has, and ``owner.json`` that tells the others who it is.

On a local disk the lock is ``filelock.FileLock``: the kernel frees it when the process dies, however
it dies. Network file systems do not promise that, so there the lock is a file's existence, and one left by
a dead process is found by ``owner.json``: where the process can be looked up, by its id, start token and boot;
where it cannot (another host, another container), by a heartbeat that does not change for a while. That while
is counted on the reader's own monotonic clock, since clocks of two machines, or of a file server, differ.

Whoever wrongly counts as dead, because it slept, finds another token in ``owner.json`` when it wakes and
writes nothing more (:meth:`Hold.check`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from ubq.config.runs import command, place_of, run_command
from ubq.distributed import launcher
from ubq.durable import dump_json, open_regular, parse_json, read_regular, write_atomic
from ubq.errors import NO_SPACE, HeldError, UsageError
from ubq.i18n import gettext as _
from ubq.jobs.state import now

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = "run.lock"
OWNER = "owner.json"
HEARTBEAT_S = 15.0
SILENT_S = 60.0
"""A process that cannot be looked up counts as dead when its heartbeat has not changed for so long."""
NETWORK_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "afs",
     "glusterfs", "fuse.glusterfs", "fuse.sshfs", "9p", "ncpfs", "pvfs2", "orangefs", "wekafs", "davfs", "fuse.davfs2")
)  # fmt: skip


@dataclass(frozen=True)
class Owner:
    """The process that writes a run, as ``owner.json`` holds it."""

    pid: int
    host: str
    start: str
    """Token that tells this process from a later one with the same id."""
    boot: str
    """Identity of the machine's boot."""
    since: str
    command: str = ""
    detached: bool = False
    token: str = ""
    """Random, one for each hold."""
    namespace: str = ""
    """The process-id namespace in which ``pid`` counts; a container has its own."""
    folder: str = ""
    """Device and inode of the run's folder: a copy of the folder is not held by who holds the original."""
    launcher: int = 0
    """Process id of the ``ubq run`` that started a group of processes, of which this is the first; else 0."""


def this_process(command: str = "", run: Path | None = None) -> Owner:
    """An owner record for the running process, with a new token."""
    pid = os.getpid()
    return Owner(
        pid=pid,
        host=socket.gethostname(),
        start=start_token(pid) or "",
        boot=boot_id(),
        since=now(),
        command=command,
        detached=os.getsid(0) == pid if hasattr(os, "getsid") else False,
        token=secrets.token_hex(8),
        namespace=pid_namespace(),
        folder=folder_identity(run) if run is not None else "",
        launcher=launcher(),
    )


def start_token(pid: int) -> str | None:
    """When a process started, as a string to compare; ``None`` where there is no such living process."""
    if sys.platform == "linux":  # psutil derives its time from a clock that may be set; and costs 30 ms to import
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        fields = text[text.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else fields[19]
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.Error:
        return None


def boot_id() -> str:
    """What changes when the machine reboots."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    import psutil

    return f"{psutil.boot_time():.0f}"


def pid_namespace() -> str:
    """The namespace in which this process sees others by their ids; empty where the system has none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def folder_identity(run: Path) -> str:
    """Device and inode of a folder; empty where there is none."""
    try:
        status = os.stat(run)
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}"


def read_owner(run: Path) -> Owner | None:
    """The process that last held a run; it may be gone (:func:`alive`)."""
    try:
        raw = parse_json(read_regular(run / OWNER))
        names = {f.name for f in dataclasses.fields(Owner)}
        owner = Owner(**{k: v for k, v in raw.items() if k in names})
        texts = (owner.host, owner.start, owner.boot, owner.since, owner.token, owner.namespace, owner.folder)
        sound = isinstance(owner.pid, int) and owner.pid > 0 and all(isinstance(text, str) for text in texts)
        return owner if sound else None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def pid_is_local(owner: Owner) -> bool:
    """Whether an owner's process id means the same process to this one."""
    return owner.host == socket.gethostname() and owner.namespace in ("", pid_namespace())


def looked_up(owner: Owner, run: Path) -> bool | None:
    """Whether an owner lives and holds this folder; ``None`` where only its heartbeat can tell."""
    if owner.host == socket.gethostname():
        if owner.boot == boot_id():
            if owner.folder and owner.folder != folder_identity(run):
                return False
            return start_token(owner.pid) == owner.start if pid_is_local(owner) else None
        if not on_network(run):  # another machine of the same name cannot reach a local disk: this one has rebooted
            return False
    return None


def alive(owner: Owner, run: Path) -> bool:
    """Whether an owner still runs and holds this folder.

    One that cannot be looked up counts as alive until this process has seen its heartbeat stand still for
    :data:`SILENT_S`; :func:`settle` takes the time to see.
    """
    known = looked_up(owner, run)
    return _silent_for(run) < SILENT_S if known is None else known


def holder(run: Path) -> Owner | None:
    """The process that works on a run; ``None`` where none does."""
    owner = read_owner(run)
    return owner if owner is not None and alive(owner, run) else None


_beats: dict[str, tuple[tuple[int, int], float]] = {}
"""Folder -> the heartbeat last seen there, and when it was first seen, on this process's monotonic clock."""


def _beat(run: Path) -> tuple[int, int] | None:
    """What changes with every heartbeat; ``None`` where nobody holds the run."""
    try:
        with open_regular(run / OWNER) as file:  # a network file system looks at the server when a file is opened
            status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _silent_for(run: Path) -> float:
    """Seconds that a run's heartbeat has not changed, as far as this process has seen."""
    beat = _beat(run)
    if beat is None:
        return float("inf")
    seen = _beats.get(str(run))
    if seen is None or seen[0] != beat:
        seen = _beats[str(run)] = beat, time.monotonic()
    return time.monotonic() - seen[1]


def settle(runs: Iterable[Path], tell: Callable[[str], None] | None = None) -> None:
    """Watch the heartbeats of those owners of runs that cannot be looked up, until :func:`alive` is sure of them.

    One whose heartbeat is recent by this machine's clock is not watched: it counts as alive.

    Args:
        runs: folders.
        tell: gets one line where that takes a while.
    """
    watched: dict[Path, tuple[int, int] | None] = {}
    for run in runs:
        owner = read_owner(run)
        if owner is None or looked_up(owner, run) is not None or _silent_for(run) >= SILENT_S:
            continue
        beat = _beat(run)
        if beat is not None and abs(time.time() - beat[0] / 1e9) > 3 * HEARTBEAT_S:
            watched[run] = beat
    if not watched:
        return
    if tell is not None:
        names = ", ".join(run.name for run in watched)
        text = _("watching for up to {seconds:.0f} s whether the process that holds {names} still runs")
        tell(text.format(seconds=SILENT_S, names=names))
    end = time.monotonic() + SILENT_S
    while watched and time.monotonic() < end:
        time.sleep(min(0.2, SILENT_S / 10))
        watched = {run: beat for run, beat in watched.items() if _beat(run) == beat}


def on_network(folder: Path) -> bool:
    """Whether a folder lies on a network file system."""
    import psutil

    path = folder.resolve()
    best, kind = "", ""
    for partition in psutil.disk_partitions(all=True):
        mount = partition.mountpoint
        if path.is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, partition.fstype
    return kind.lower() in NETWORK_FILE_SYSTEMS


def held_by(run: Path, owner: Owner | None) -> HeldError:
    """The error for a run that another process holds."""
    return HeldError(
        _("run {run} is held by {who}").format(run=run.name, who=_who(owner)),
        _("follow it with: {command}").format(command=run_command("attach", run)),
    )


def _who(owner: Owner | None) -> str:
    if owner is None:
        return _("another process")
    return _("process {pid} on {host} since {since}").format(pid=owner.pid, host=owner.host, since=owner.since)


class LostHoldError(HeldError):
    """Another process has taken the run over, which this one held; nothing may be written any more."""


def unwritable(run: Path, error: OSError) -> UsageError:
    """The error for a run's folder that cannot be made or written."""
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(_("the run's name is too long for this disk: {run}").format(run=run.name), "--run NAME")
    return UsageError(
        _("the run's folder {folder} cannot be written: {error}").format(folder=run, error=error.strerror or error),
        _("choose another with --runs-dir"),
    )


class Lock(Protocol):
    """What keeps a second process out."""

    def release(self) -> None: ...


class _Marker:
    """A lock that is a file's existence; it holds the token of who made it.

    Raises:
        FileExistsError: somebody has it.
    """

    def __init__(self, path: Path, token: str) -> None:
        self._path, self._token = path, token
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            os.write(descriptor, token.encode())
        finally:
            os.close(descriptor)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            if self._path.read_text() == self._token:  # else it is another's
                os.unlink(self._path)


class Hold:
    """Hold a run for this process while in the ``with`` block.

    Args:
        run: its folder; made when missing.
        command: the command line, for ``owner.json``.
        network: whether it lies on a network file system; ``None``: look.

    Raises:
        HeldError: another process holds it; says which, and since when.
        UsageError: the folder cannot be written.
    """

    def __init__(self, run: Path, command: str = "", network: bool | None = None) -> None:
        self.run = run
        self.owner = this_process(command)
        self._network = network
        self._lock: Lock | None = None
        self.lost = False
        """Whether another process was seen to have taken the run over."""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            self.owner = dataclasses.replace(self.owner, folder=folder_identity(self.run))
            network = on_network(self.run) if self._network is None else self._network
            self._lock = self._marker() if network else self._kernel_lock()
            self._lock_file = (self.run / LOCK).stat().st_ino, network
            self._write_owner()
        except OSError as error:
            if self._lock:
                self._lock.release()
            if error.errno in NO_SPACE:
                raise
            raise unwritable(self.run, error) from error
        self._thread = threading.Thread(target=self._heartbeats, name="ubq-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=1.0)
        if self._lock:
            if self._held_still():
                with contextlib.suppress(OSError):
                    os.unlink(self.run / OWNER)
            self._lock.release()

    def check(self) -> None:
        """Raise where another process has taken the run over; asked before whatever is written.

        Raises:
            LostHoldError: another token, or none, stands in ``owner.json``; from then on every call raises.
        """
        if not self._held_still():
            if not (self.run / OWNER).exists():
                raise LostHoldError(
                    _("{folder}, or {file} in it, was renamed or removed; this process writes nothing more").format(
                        folder=self.run, file=OWNER
                    ),
                    _("look for it with: {command}; it goes on with ubq resume").format(
                        command=command("ubq", "runs", *place_of(self.run))
                    ),
                )
            owner = read_owner(self.run)
            raise LostHoldError(
                _("run {run} was taken over by {who}; this process writes nothing more").format(
                    run=self.run.name, who=_who(owner)
                ),
                _("follow it with: {command}").format(command=run_command("attach", self.run)),
            )

    def _held_still(self) -> bool:
        if self.lost:
            return False
        try:
            owner = parse_json(read_regular(self.run / OWNER))
            self.lost = not isinstance(owner, dict) or owner.get("token") != self.owner.token
        except FileNotFoundError:
            self.lost = not self._restore_owner()
        except OSError:
            pass  # a mount that is away for a moment: what is written next says so
        except ValueError:
            self.lost = True
        return not self.lost

    def _restore_owner(self) -> bool:
        """Write ``owner.json`` again where somebody removed it, while the kernel's lock is certainly still ours."""
        inode, network = self._lock_file
        try:
            if network or (self.run / LOCK).stat().st_ino != inode:
                return False
            self._write_owner()
        except OSError:
            return False
        return True

    def _write_owner(self) -> None:
        write_atomic(self.run / OWNER, dump_json(dataclasses.asdict(self.owner), indent=1))

    def _heartbeats(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            if not self._held_still():
                return
            with contextlib.suppress(OSError):  # a full disk or a lost mount is reported by what writes the run
                os.utime(self.run / OWNER)

    def _kernel_lock(self) -> Lock:
        from filelock import FileLock, Timeout

        lock: BaseFileLock = FileLock(self.run / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise self._held() from None
        except NotImplementedError:  # a file system without such locks
            return self._marker()
        owner = read_owner(self.run)
        if owner is not None and looked_up(owner, self.run):  # somebody removed the lock's file under it
            lock.release()
            raise held_by(self.run, owner)
        return lock

    def _marker(self) -> Lock:
        for _attempt in range(2):
            with contextlib.suppress(FileExistsError):
                return _Marker(self.run / LOCK, self.owner.token)
            self._remove_dead_marker()
        raise self._held()

    def _held(self) -> HeldError:
        # The holder writes its name right after it has the lock.
        for _attempt in range(20):
            owner = read_owner(self.run)
            if owner and alive(owner, self.run):
                break
            time.sleep(0.05)
        return held_by(self.run, owner)

    def _remove_dead_marker(self) -> None:
        """Remove a marker whose process is dead. Only one contender at a time judges and removes."""
        marker, gate = self.run / LOCK, self.run / f"{LOCK}.gate"
        judged = _identity(marker)
        if not self._dead(marker):
            return
        if _unchanged(gate, 5.0):  # of a contender that died while it judged
            gate.unlink(missing_ok=True)
        try:
            os.close(os.open(gate, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
        try:
            if judged is not None and _identity(marker) == judged:
                marker.unlink(missing_ok=True)
        finally:
            gate.unlink(missing_ok=True)

    def _dead(self, marker: Path) -> bool:
        owner = read_owner(self.run)
        known = None if owner is None else looked_up(owner, self.run)
        if known:
            return False
        # A new holder's marker comes a moment before its owner.json: what stands there may be the last one's.
        if owner is None or known is False:
            return _unchanged(marker, 2.0) and read_owner(self.run) == owner
        settle([self.run], lambda message: print(message, file=sys.stderr))
        return read_owner(self.run) == owner and not alive(owner, self.run)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _unchanged(path: Path, seconds: float) -> bool:
    """Whether a file stays the same one for a while; False where there is none."""
    first = _identity(path)
    end = time.monotonic() + seconds
    while first is not None and _identity(path) == first:
        if time.monotonic() > end:
            return True
        time.sleep(0.05)
    return False
