"""Start a job that outlives the terminal, follow it, stop it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ubq.config.runs import command, run_command
from ubq.durable import open_regular
from ubq.errors import NO_SPACE, UbqError
from ubq.i18n import gettext as _
from ubq.jobs.owner import Owner, alive, held_by, holder, pid_is_local, read_owner, settle, unwritable
from ubq.jobs.state import RUNNING, read_state

PREFLIGHT_WAIT_S = 5.0


@dataclass(frozen=True)
class Detached:
    """A job that was started in its own session."""

    pid: int
    exit_code: int | None
    """Its exit code when it ended within the wait; ``None`` while it runs."""
    started: bool
    """Whether it was seen to pass its preflight."""
    output: str
    """What it printed so far."""


def start_detached(arguments: Sequence[str], run: Path, wait: float = PREFLIGHT_WAIT_S) -> Detached:
    """Start ``ubq ARGUMENTS`` in its own session, its output going to the run's ``run.log``.

    Returns as soon as the job has passed its preflight or ended, and after ``wait`` seconds anyway.

    Args:
        arguments: a ``run`` or ``resume`` command line that works on ``run``.
        run: the run's folder; made if need be.

    Raises:
        HeldError: another process holds the run.
        UsageError: the folder or the log cannot be written.
    """
    log = run / "run.log"
    settle([run])
    owner = holder(run)
    if owner is not None:
        raise held_by(run, owner)
    try:
        run.mkdir(parents=True, exist_ok=True)
        output = open(log, "a+b")  # noqa: SIM115
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise unwritable(run, error) from error
    with output:
        begin = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "ubq", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + wait
        started = False
        while time.monotonic() < deadline and process.poll() is None:
            owner = read_owner(run)
            if owner is not None and process.pid in (owner.pid, owner.launcher):
                state = read_state(run / "state.json")
                # What a crashed process left there may say "running", too.
                if state is not None and state.state == RUNNING and state.holder == owner.token:
                    started = True
                    break
            time.sleep(0.05)
        code = process.poll()
        output.seek(begin)  # not opened again: a start that is refused takes its files back
        text = output.read().decode(errors="replace")
    if code is None:
        process.returncode = 0  # the job is on its own now; this silences Popen's warning about it
    return Detached(process.pid, code, started, text)


def stop_run(run: Path, now: bool = False, timeout: float = 600.0, tell: Callable[[str], None] = print) -> bool:
    """Ask the process that holds a run to save and end, and wait for it; with ``now``, do not wait for the save.

    Returns:
        False where no process held the run.

    Raises:
        UbqError: it runs on another host, or did not end in time.
    """
    settle([run], tell)
    owner = holder(run)
    if owner is None:
        return False
    if not pid_is_local(owner):
        stop = run_command("stop", run.absolute())
        if owner.host == socket.gethostname():
            raise UbqError(
                _("run {run} runs in another container, as process {pid}").format(run=run.name, pid=owner.pid),
                _("stop it from there: {command}").format(command=stop),
            )
        raise UbqError(
            _("run {run} runs on {host}").format(run=run.name, host=owner.host),
            command("ssh", owner.host, command("ubq", "stop", run.name, "--runs-dir", str(run.absolute().parent))),
        )
    _signal(owner, signal.SIGTERM)
    _continue(owner)
    if now:
        if not _gone(owner, run, 2.0):
            _signal(owner, signal.SIGTERM)
        if not _gone(owner, run, 2.0):
            _kill(owner)
        timeout = 10.0
    else:
        tell(_("asked process {pid} to save and end").format(pid=owner.pid))
    if not _gone(owner, run, timeout):
        raise UbqError(
            _("process {pid} has not ended after {seconds:.0f} s").format(pid=owner.pid, seconds=timeout),
            _("end it without saving: {command}").format(command=run_command("stop", run, "--now")),
        )
    return True


def _signal(owner: Owner, number: int) -> None:
    try:
        os.kill(owner.launcher or owner.pid, number)  # a launcher passes it on to every rank
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise UbqError(_("process {pid} belongs to another user").format(pid=owner.pid)) from error


def _continue(owner: Owner) -> None:
    """Let a job go on that was stopped with Ctrl-Z, with the workers of its group: it could not save."""
    if hasattr(signal, "SIGCONT"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(os.getpgid(owner.pid), signal.SIGCONT)


def _kill(owner: Owner) -> None:
    """Kill the process, and what it started where it leads its own session."""
    with contextlib.suppress(ProcessLookupError):
        if owner.detached:
            os.killpg(owner.pid, signal.SIGKILL)
        else:
            os.kill(owner.pid, signal.SIGKILL)


def _gone(owner: Owner, run: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(owner, run):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def follow_log(log: Path, ended: Callable[[], bool], poll: float = 0.2) -> Iterator[str]:
    """Lines of a log as they come, from the beginning, until ``ended``; a torn last line waits for its end."""
    rest = b""
    position = 0
    while True:
        last = ended()  # asked before reading, so that nothing written before the end is missed
        try:
            with open_regular(log) as file:
                file.seek(position)
                data = file.read()
        except FileNotFoundError:
            data = b""
        position += len(data)
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
        if last:
            if rest:
                yield rest.decode(errors="replace")
            return
        time.sleep(poll)
