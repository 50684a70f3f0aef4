"""A run of several processes: the first rank is the run's process, the others follow it from stage to stage.

The first rank holds the run, writes its files and does whatever does not train. It tells the others over the store
which stage trains next, and with which configuration; they run that stage as far as its training goes. The processes
are started, watched and started again by torchrun (``ubq run --nproc N`` starts it) or by Slurm.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ubq import distributed
from ubq.distributed import Followed, Group, LostProcessError
from ubq.errors import EXIT_OK, EXIT_STAGE_FAILED, StageError, UbqError
from ubq.i18n import gettext as _
from ubq.i18n import restored, storable
from ubq.jobs.signals import SIGNALS, StopSignals, said_again_by_slurm
from ubq.jobs.state import RUNNING, read_state
from ubq.stages.base import Stopped
from ubq.stages.paths import RunPaths
from ubq.training.store import CheckpointStore

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.base import Stage

ERROR_WAIT_S = 3.0
"""How long the first rank waits to hear why another one ended."""
END_WAIT_S = 5.0
"""How long the first rank waits at its end for the others to hear of it."""
LAUNCH_OPTIONS = ("--nproc", "--nnodes", "--rdzv-endpoint")
END, FAILURE = "end", "failure"


class Leader:
    """The first rank's hold on the others.

    Args:
        device: as configured.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._stages = 0

    @cached_property
    def group(self) -> Group:
        """The group; asked for the first time, waits for the others."""
        group = distributed.join(self._device)
        group.tell("rank/0", distributed.this_rank())
        return group

    def processes(self) -> list[dict[str, Any]]:
        """Rank, host and process id of every rank."""
        return [self.group.wait(f"rank/{rank}") for rank in range(self.group.info.size)]

    def begin(self, stage: str, config: Config, paths: RunPaths, step: int) -> None:
        """Have the others train a stage, from the checkpoint of ``step``."""
        self._stages += 1
        self.group.tell(
            f"stage/{self._stages}",
            {"stage": stage, "config": config.model_dump(mode="json"), "folder": str(paths.root.absolute()),
             "step": step},
        )  # fmt: skip

    def end(self) -> None:
        """Let the others go; once what the run leaves behind is on disk.

        Without torchrun the store ends with this process, so it waits for the others to have heard.
        """
        with contextlib.suppress(RuntimeError, LostProcessError):
            self.group.tell(END, True)
            end = time.monotonic() + END_WAIT_S
            for rank in range(1, self.group.info.size):
                self.group.wait(f"left/{rank}", lambda: time.monotonic() > end)

    def reason(self, error: LostProcessError) -> StageError | None:
        """Why another process ended; ``None`` where torchrun starts the group again."""
        info = self.group.info
        with contextlib.suppress(RuntimeError, LostProcessError):
            end = time.monotonic() + ERROR_WAIT_S
            failure = self.group.wait(FAILURE, lambda: time.monotonic() > end)
            if failure:
                failure = restored(failure)
                return StageError(
                    _("process {rank} on {host}: {message}").format(
                        rank=failure["rank"], host=failure["host"], message=failure["message"]
                    ),
                    failure["fix"],
                )
        if info.restarts < info.most_restarts:
            return None
        return StageError(
            _("a process of the group ended without a word: {error}").format(error=error),
            _("see the lines before this one; the run goes on from its last checkpoint"),
        )


class _FollowerContext:
    """What a stage is handed on a rank that follows: it reads checkpoints, and writes and shows nothing."""

    def __init__(self, config: Config, paths: RunPaths, stage: str, step: int, stop: StopSignals) -> None:
        self.config, self.paths, self.stage = config, paths, stage
        self._step, self._stop = step, stop
        self._checkpoints = CheckpointStore(paths.checkpoints(stage), warn=lambda message: None)

    @property
    def store(self) -> _FollowerContext:
        return self

    def save(self, step: int, payload: dict[str, object]) -> None:
        raise AssertionError("only the first rank saves")

    def latest_step(self) -> int:
        return self._step

    def latest(self) -> tuple[int, dict[str, object]] | None:
        if not self._step:
            return None
        checkpoint = self._checkpoints.latest()
        if checkpoint is None or checkpoint[0] != self._step:
            raise StageError(
                _("{host} does not see checkpoint {step} in {folder}").format(
                    host=socket.gethostname(), step=self._step, folder=self._checkpoints.folder
                ),
                _("keep the run's folder on a file system that all hosts share"),
            )
        return checkpoint

    def stop_requested(self) -> bool:
        return self._stop.received is not None

    def progress(self, step: int, steps: int, **figures: float | str) -> None: ...
    def metrics(self, step: int, **figures: float | str) -> None: ...
    def event(self, kind: str, **fields: object) -> None: ...
    def log(self, message: str) -> None: ...
    def checkpoint_saved(self, step: int) -> None: ...


def follow(device: str, stages: Sequence[Stage]) -> int:
    """Do this rank's part of every stage that trains, until the first rank ends.

    Returns:
        The exit code: 0 when the first rank ended, whatever came of the run.
    """
    with StopSignals() as stop:
        group = distributed.join(device)
        group.tell(f"rank/{group.info.rank}", distributed.this_rank())
        number = 1
        try:
            while True:
                order = _next(group, number, stop)
                if order is None:
                    with contextlib.suppress(RuntimeError):
                        group.tell(f"left/{group.info.rank}", True)
                    return EXIT_OK
                _follow_stage(order, stages, stop)
                number += 1
        except (Exception, KeyboardInterrupt) as error:
            return _gone(group, error)


def _next(group: Group, number: int, stop: StopSignals) -> dict[str, Any] | None:
    """The next stage that trains; ``None`` at the end, and where this rank was asked to stop while it waited."""
    return group.wait(f"stage/{number}", lambda: stop.received is not None or group.value(END) is not None)


def _follow_stage(order: dict[str, Any], stages: Sequence[Stage], stop: StopSignals) -> None:
    from ubq.config.schema import Config
    from ubq.stages.base import StageContext

    stage = next(s for s in stages if s.name == order["stage"])
    config, paths = Config.model_validate(order["config"]), RunPaths(Path(order["folder"]))
    context: StageContext = _FollowerContext(config, paths, stage.name, order["step"], stop)
    with contextlib.suppress(Followed, Stopped):
        stage.run(context)


def _gone(group: Group, error: BaseException) -> int:
    """A rank cannot go on: say why, unless the first one has ended before it."""
    if isinstance(error, LostProcessError):
        with contextlib.suppress(RuntimeError, LostProcessError):
            if group.value(END) is not None:
                return EXIT_OK
        return EXIT_STAGE_FAILED
    message = error.message if isinstance(error, UbqError) else f"{type(error).__name__}: {error}".splitlines()[0]
    failure = {**distributed.this_rank(), "message": message, "fix": getattr(error, "fix", "")}
    with contextlib.suppress(RuntimeError):
        if group.value(FAILURE) is None:
            group.tell(FAILURE, storable(failure))
    print(_("error: {error}").format(error=message), file=sys.stderr)
    return EXIT_STAGE_FAILED


def torchrun_command(
    arguments: Sequence[str], nproc: int, nnodes: str = "1", rendezvous: str = "", restarts: int = 3
) -> list[str]:
    """The command that starts ``ubq ARGUMENTS`` in ``nproc`` processes on each of ``nnodes`` hosts.

    Options that torchrun would take for its own are left out of the arguments: they have done their work.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(nproc), "--nnodes", nnodes]
    command += ["--max-restarts", str(restarts)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", rendezvous] if rendezvous else ["--standalone"]
    passed_on, skip = [], False
    for argument in arguments:
        launch_option = argument.split("=")[0] in LAUNCH_OPTIONS
        if not launch_option and not skip:
            passed_on.append(argument)
        skip = launch_option and "=" not in argument
    if passed_on[:1] == ["run"]:  # the run keeps the number for a later start
        passed_on += ["--set", f"distributed.nproc={nproc}"]
    return [*command, "-m", "--", "ubq", *passed_on]  # after -- torchrun takes --run for no option of its own


def in_group() -> bool:
    """Whether this process was started as one of a group, were it of one."""
    return distributed.rank_info() is not None or "TORCHELASTIC_RUN_ID" in os.environ


def launch(command: Sequence[str], run: Path) -> int:
    """Run a group of processes to its end; the first signal asks all of them to save and end, the second ends them.

    Args:
        command: of torchrun.
        run: the run's folder, in which the first rank leaves the exit code.

    Returns:
        The exit code of the run.
    """
    environ = {**os.environ, distributed.LAUNCHER: str(os.getpid())}
    environ.setdefault("OMP_NUM_THREADS", "1")  # each rank sets its own share; without it torchrun prints a warning
    process = subprocess.Popen(command, env=environ, start_new_session=True)
    asked = 0

    def pass_on(number: int, frame: object) -> None:
        nonlocal asked
        if asked and said_again_by_slurm(number):
            return
        asked += 1
        if asked > 1:
            process.terminate()  # torchrun ends its processes
            return
        for child in _children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    before = {n: signal.signal(n, pass_on) for n in SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with contextlib.suppress(UbqError):
        state = read_state(run / "state.json")
        if state is not None and state.state != RUNNING and state.exit_code is not None:
            return state.exit_code
    return EXIT_STAGE_FAILED if code else EXIT_OK


def _children(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def ended_in(code: int) -> int:
    """What a rank of torchrun exits with: a stop that was saved is no failure to start again from."""
    return EXIT_OK if "TORCHELASTIC_RUN_ID" in os.environ and code > 128 else code
