"""Who holds a run: the lock that one process has, and ``owner.json`` that tells the others who it is.

On a local disk the lock is ``filelock.FileLock``: the kernel frees it when the process dies, however
it dies. Network file systems do not promise that, so there, as filelock's documentation advises,
it is ``SoftFileLock`` (a file's existence); one left by a dead process is found by ``owner.json``:
on the same host by process id, start token and boot id, from another host by a heartbeat gone silent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ubq.durable import dump_json, parse_json, write_atomic
from ubq.errors import HeldError, UsageError
from ubq.i18n import gettext as _
from ubq.jobs.state import now

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = "run.lock"
OWNER = "owner.json"
HEARTBEAT_S = 15.0
# A process on another host counts as dead when its heartbeat is this old.
SILENT_S = 300.0
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


def this_process(command: str = "") -> Owner:
    """An owner record for the running process."""
    pid = os.getpid()
    return Owner(
        pid=pid,
        host=socket.gethostname(),
        start=start_token(pid) or "",
        boot=boot_id(),
        since=now(),
        command=command,
        detached=os.getsid(0) == pid if hasattr(os, "getsid") else False,
    )


def start_token(pid: int) -> str | None:
    """When a process started, as a string to compare; ``None`` where there is no such living process."""
    if sys.platform == "linux":  # psutil derives its time from a clock that may be set; and costs 30 ms to import
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
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


def read_owner(run: Path) -> Owner | None:
    """The process that last held a run; it may be gone (:func:`alive`)."""
    try:
        raw = parse_json((run / OWNER).read_bytes())
        names = {f.name for f in dataclasses.fields(Owner)}
        owner = Owner(**{k: v for k, v in raw.items() if k in names})
        return owner if isinstance(owner.pid, int) and owner.pid > 0 else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def alive(owner: Owner, run: Path) -> bool:
    """Whether an owner still runs; one on another host by its heartbeat, the age of ``owner.json``."""
    if owner.host == socket.gethostname():
        return owner.boot == boot_id() and start_token(owner.pid) == owner.start
    with contextlib.suppress(OSError):
        return time.time() - (run / OWNER).stat().st_mtime < SILENT_S
    return False


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
    who = _("another process")
    if owner is not None:
        who = _("process {pid} on {host} since {since}").format(pid=owner.pid, host=owner.host, since=owner.since)
    return HeldError(
        _("run {run} is held by {who}").format(run=run.name, who=who),
        _("follow it with: {command}").format(command=f"ubq attach {run.name}"),
    )


UNWRITABLE = (PermissionError, NotADirectoryError, FileExistsError)


def unwritable(run: Path, error: OSError) -> UsageError:
    """The error for a run's folder that cannot be made or written."""
    return UsageError(
        _("the run's folder {folder} cannot be written: {error}").format(folder=run, error=error.strerror or error),
        _("choose another with --runs-dir"),
    )


class Hold:
    """Hold a run for this process while in the ``with`` block.

    Raises:
        HeldError: another process holds it; says which, and since when.
        UsageError: the folder cannot be written.
    """

    def __init__(self, run: Path, command: str = "", network: bool | None = None) -> None:
        self.run = run
        self.owner = this_process(command)
        self._network = network
        self._lock: BaseFileLock | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        from filelock import FileLock, SoftFileLock, Timeout

        try:
            self.run.mkdir(parents=True, exist_ok=True)
            soft = on_network(self.run) if self._network is None else self._network
            if soft:
                self._remove_dead_marker()
            self._lock = (SoftFileLock if soft else FileLock)(self.run / LOCK, timeout=0)
            self._lock.acquire()
            write_atomic(self.run / OWNER, dump_json(dataclasses.asdict(self.owner), indent=1))
        except Timeout:
            raise self._held() from None
        except UNWRITABLE as error:
            raise unwritable(self.run, error) from error
        except OSError:
            if self._lock:
                self._lock.release()
            raise
        self._thread = threading.Thread(target=self._beat, name="ubq-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=1.0)
        if self._lock:
            with contextlib.suppress(OSError):
                os.unlink(self.run / OWNER)
            self._lock.release()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):  # a full disk or a lost mount is reported by what writes the run
                os.utime(self.run / OWNER)

    def _held(self) -> HeldError:
        # The holder writes its name right after it has the lock.
        for _attempt in range(20):
            owner = read_owner(self.run)
            if owner and alive(owner, self.run):
                break
            time.sleep(0.05)
        return held_by(self.run, owner)

    def _remove_dead_marker(self) -> None:
        """Remove a soft lock whose process is dead. Only one contender at a time judges and removes."""
        marker, gate = self.run / LOCK, self.run / f"{LOCK}.gate"
        if not marker.exists():
            return
        with contextlib.suppress(OSError):
            if time.time() - gate.stat().st_mtime > SILENT_S:
                gate.unlink()
        try:
            os.close(os.open(gate, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
        try:
            owner = read_owner(self.run)
            taken = marker.stat().st_mtime
            named = owner is not None and (self.run / OWNER).stat().st_mtime >= taken
            # An owner.json older than the lock is the last holder's: the new one's may be on its way.
            if (named or time.time() - taken > 5.0) and (owner is None or not alive(owner, self.run)):
                marker.unlink()
        except FileNotFoundError:
            pass
        finally:
            gate.unlink(missing_ok=True)
