"""Run the stages of a run, one after the other, in this process, and keep its files true.

The order of what happens to disk is what makes a crash at any moment harmless:

- a stage that starts over: its checkpoints are set aside with its metric rows, then its new fingerprint is written;
- a stage that goes on: metric rows past its newest sound checkpoint go, then it starts;
- a checkpoint becomes valid only after the metric rows up to it are durable;
- a stage is ``completed`` in ``state.json`` only after its output files exist; then its checkpoints go;
- nothing is written once another process has taken the run over (``Hold.check``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.runs import run_command
from ubq.cpu import wait_asleep
from ubq.distributed import LostProcessError, rank_info
from ubq.durable import LineFile, read_rows
from ubq.errors import (
    EXIT_MARK_FAILED,
    EXIT_OK,
    EXIT_PREFLIGHT,
    EXIT_STAGE_FAILED,
    NO_SPACE,
    DivergedError,
    HeldError,
    PreflightError,
    StageError,
    UbqError,
    is_out_of_memory,
)
from ubq.figures import duration
from ubq.i18n import gettext as _
from ubq.i18n import joined, storable
from ubq.jobs import fixes
from ubq.jobs.console import Console, console_for
from ubq.jobs.context import RunContext
from ubq.jobs.fingerprints import changes, config_values, relative
from ubq.jobs.frozen import freeze, load_frozen, write_config, write_sources
from ubq.jobs.machine import forget_peak_memory, peak_memory, this_machine
from ubq.jobs.owner import Hold, LostHoldError
from ubq.jobs.plan import (
    RESUME,
    UP_TO_DATE,
    Planned,
    Selection,
    check_discards,
    check_predecessors,
    plan,
    plan_stage,
)
from ubq.jobs.ranks import Leader, ended_in, follow
from ubq.jobs.signals import StopSignals
from ubq.jobs.state import (
    COMPLETED,
    FAILED,
    INTERRUPTED,
    PARTIAL,
    PENDING,
    RUNNING,
    RunState,
    StageState,
    StateFile,
    now,
    read_state,
    stage_from,
)
from ubq.jobs.tracking import Tracking
from ubq.oserrors import of_the_system
from ubq.plaintext import printable
from ubq.stages.base import Stopped
from ubq.stages.paths import RunPaths
from ubq.states import check_word
from ubq.training.store import CheckpointStore

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.jobs.checks.check import Check
    from ubq.stages.base import Stage


def pipeline() -> Sequence[Stage]:
    """The stages of ubq, in order."""
    from ubq.stages import PIPELINE

    return PIPELINE


def start_run(
    config: Config,
    paths: RunPaths,
    *,
    preset: str = "",
    selection: Selection | None = None,
    preflight: bool = True,
    stages: Sequence[Stage] | None = None,
    console: Console | None = None,
    command: str = "",
    provenance: Mapping[str, str] | None = None,
) -> int:
    """Run what of a run is not up to date, in this process; a new run, the same again, or a changed one.

    Args:
        config: resolved configuration; frozen to ``config.toml``.
        paths: the run's folder.
        preset: name of the preset it came from, for status and file names.
        selection: ``--only``, ``--until``, ``--force``.
        preflight: check first what the machine has.
        stages: the pipeline; ubq's own when left out.
        console: where lines and progress go; decided by the terminal when left out.
        command: the command line, for ``owner.json``.
        provenance: where the values of ``config`` came from (``Loaded.provenance``).

    Returns:
        The exit code: 0 completed, 1 failed, 2 unusable input, 3 preflight, 5 a success mark failed,
        129, 130, 143 stopped, saved and resumable.

    Raises:
        HeldError: another process holds the run.
        UbqError: nothing could be started; nothing of the run was changed.
    """
    stages = pipeline() if stages is None else stages
    selection = selection or Selection()
    selection.check(config, stages)
    wait_asleep()
    info = rank_info()
    if info is not None and info.rank:
        return follow(config.device, stages)
    leader = Leader(config.device) if info is not None else None
    try:
        if info is not None and info.restarts and (failed := _failed_before(paths)):
            return failed
        code = _start(config, paths, preset, selection, preflight, stages, console, command, leader, provenance or {})
        return code if leader is None else ended_in(code)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        fix = _("make room, then: {command}").format(command=run_command("resume", paths.root))
        raise StageError(_no_space(paths), fix) from error
    finally:
        if leader is not None:
            leader.end()


def _failed_before(paths: RunPaths) -> int:
    """Exit code of a run that failed for a reason that another start would not take away; else 0."""
    state = read_state(paths.state)
    return (state.exit_code or 0) if state is not None and state.state == FAILED else 0


def _start(
    config: Config,
    paths: RunPaths,
    preset: str,
    selection: Selection,
    preflight: bool,
    stages: Sequence[Stage],
    console: Console | None,
    command: str,
    leader: Leader | None,
    provenance: Mapping[str, str],
) -> int:
    fresh = not (paths.state.exists() or paths.config.exists())
    try:
        with Hold(paths.root, command or " ".join(sys.argv)) as hold:
            code = _held(hold, config, paths, preset, selection, preflight, stages, console, leader, provenance)
    except HeldError:
        raise  # what lies there is another process's
    except UbqError:
        if fresh and not paths.state.exists():
            remove_refused(paths)
        raise
    if fresh and code == EXIT_PREFLIGHT:
        remove_refused(paths)
    return code


def _held(
    hold: Hold,
    config: Config,
    paths: RunPaths,
    preset: str,
    selection: Selection,
    preflight: bool,
    stages: Sequence[Stage],
    console: Console | None,
    leader: Leader | None,
    provenance: Mapping[str, str],
) -> int:
    """Plan and run, while this process holds the run."""
    requested, config = config, freeze(config, paths, preset)
    state = read_state(paths.state)
    planned = plan(config, paths, stages, state, selection)
    check_discards(planned, selection, stages)
    write_sources(paths, requested, provenance, config)
    console = console or console_for(sys.stdout, paths.log)
    try:
        whole = not (selection.only or selection.until)
        if state and state.state == COMPLETED and whole and all(p.action == UP_TO_DATE for p in planned):
            write_config(paths, config)
            console.line(_("run {run} is complete and up to date").format(run=paths.root.name))
            if state.error:
                console.line(_("error: {error}").format(error=state.error["message"]))
            return state.exit_code or EXIT_OK
        with contextlib.closing(_Runner(hold, config, paths, preset, state, selection, stages, console, leader)) as job:
            return job.run(planned, preflight)
    finally:
        console.close()


def resume_run(
    paths: RunPaths,
    *,
    overrides: Mapping[str, object] | None = None,
    selection: Selection | None = None,
    preflight: bool = True,
    stages: Sequence[Stage] | None = None,
    console: Console | None = None,
    command: str = "",
) -> int:
    """Go on with an existing run from its frozen configuration, values laid over it; see :func:`start_run`."""
    state = read_state(paths.state)
    return start_run(
        load_frozen(paths, overrides),
        paths,
        preset=state.preset if state else "",
        selection=selection,
        preflight=preflight,
        stages=stages,
        console=console,
        command=command,
        provenance={key: f"--set {key}" for key in overrides or {}},
    )


def dry_run(
    config: Config,
    paths: RunPaths,
    *,
    preset: str = "",
    selection: Selection | None = None,
    stages: Sequence[Stage] | None = None,
) -> list[Planned]:
    """What :func:`start_run` would do; changes nothing and takes no lock."""
    stages = pipeline() if stages is None else stages
    selection = selection or Selection()
    selection.check(config, stages)
    return plan(freeze(config, paths, preset), paths, stages, read_state(paths.state), selection)


def remove_refused(paths: RunPaths) -> None:
    """Take back what a start that was refused has made of a new run; what else lies in its folder stays."""
    made = (paths.root / "owner.json", paths.root / "run.lock", paths.log, paths.state, paths.config, paths.events)
    for path in (*made, paths.metrics, paths.sources):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):
        paths.root.rmdir()


def _set_threads(threads: int) -> None:
    """Fix the thread count, before torch is imported if it is not yet."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


class _Runner:
    """One start of a run, from the plan to the exit code."""

    def __init__(
        self,
        hold: Hold,
        config: Config,
        paths: RunPaths,
        preset: str,
        state: RunState | None,
        selection: Selection,
        stages: Sequence[Stage],
        console: Console,
        leader: Leader | None,
    ) -> None:
        self.hold = hold
        self.leader = leader
        """Of the processes that train with this one."""
        self.config = config
        self.paths = paths
        self.selection = selection
        self.stages = stages
        self.console = console
        self.fresh = state is None
        state = state or RunState(run=paths.root.name, created=now())
        state.run, state.preset, state.holder = paths.root.name, preset or state.preset, hold.owner.token
        state.created = state.created or now()  # one that waited in a queue has none
        known = {s.name: s for s in state.stages}
        state.stages = [known.get(s.name, StageState(s.name)) for s in stages if s.applies(config)]
        self.state = state
        self.file = StateFile(paths.state, state, hold.check)
        self.current: StageState | None = None
        """The stage at work, to which a failure belongs."""
        self.resume = run_command("resume", paths.root)
        self.log_file = os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._opened = contextlib.ExitStack()
        self._opened.callback(os.close, self.log_file)

    def close(self) -> None:
        """Close the run's files."""
        self._opened.close()

    def run(self, planned: Sequence[Planned], preflight: bool) -> int:
        state = self.state
        state.state, state.exit_code, state.error, state.processes = PENDING, None, None, []
        state.next_command = self.resume
        # Forced stages forget what they did, so that an interruption does not undo the force.
        for item in planned:
            if item.name in self.selection.forced(self.stages):
                old = state.stage(item.name)
                state.put(StageState(item.name, generation=old.generation if old else 0))
        for entry in state.stages:
            if entry.state == RUNNING:  # its process is gone without a word
                entry.state = INTERRUPTED
        for leftover in self.paths.root.glob(".*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink()
        write_config(self.paths, self.config)
        self.file.save()
        self.events = self._opened.enter_context(contextlib.closing(LineFile(self.paths.events)))
        self.metrics = self._opened.enter_context(contextlib.closing(LineFile(self.paths.metrics)))
        self.metrics.keep(lambda row: True)
        self.tracking = Tracking(self.config, self.paths, self.log)
        self.event("run_started", plan=[p.as_dict() for p in planned])
        self.log(_("run {run} in {folder}").format(run=state.run, folder=self.paths.root))
        stop = StopSignals(
            first=_("stopping after this step and a save; once more to leave at once"),
            second=_("resume with: {command}").format(command=self.resume),
        )
        with stop:
            try:
                if preflight:
                    self._preflight(planned)
                self._fix_device(planned)
                state.state = RUNNING
                self.file.save()
                _set_threads(self.config.threads)
                if self.leader is not None:
                    state.processes = self.leader.processes()
                    self.file.save()
                for stage in self.selection.stages(self.config, self.stages):
                    if stop.received is not None:
                        raise Stopped
                    self.current = state.stage(stage.name)
                    self._stage(stage, stop)
                    self.current = None
                return self._completed()
            except Stopped:
                return self._interrupted(stop)
            except LostProcessError as error:
                self.log(_("a process of the group is gone ({error}); the group starts again").format(error=error))
                return EXIT_STAGE_FAILED  # the state stays as a crash would leave it
            except LostHoldError as error:
                state.exit_code = error.exit_code  # of this process; on disk it is the other's
                raise
            except Exception as error:
                return self._failed(error)
            finally:
                self.tracking.close(self.state.exit_code or EXIT_OK)

    def _preflight(self, planned: Sequence[Planned]) -> None:
        from ubq.jobs.checks import preflight

        todo = [s for s in self.stages if any(p.name == s.name and p.action != UP_TO_DATE for p in planned)]
        if todo:  # PyTorch alone takes seconds to load
            self.log(_("checking data, device, memory and disk …"))
        checks: list[Check] = preflight.check_run(self.config, self.paths, todo)
        self.state.preflight = [c.as_dict() for c in checks]
        failed = [c for c in checks if c.failed]
        for check in checks:
            if check.status != "ok" and failed != [check]:  # a single failure is said once, as the error
                self.log(f"{check_word(check.status)}: {check.figure}. {check.fix}".rstrip(". ") + ".")
        if failed:
            raise PreflightError(joined("; ", (c.figure for c in failed)), failed[0].fix)

    def _fix_device(self, planned: Sequence[Planned]) -> None:
        """Keep for good what ``device = "auto"`` is here; a run that has trained under ``auto`` stays as it is."""
        todo = {p.name for p in planned if p.action != UP_TO_DATE}
        trained = any((s.fingerprint or {}).get("device") == "auto" for s in self.state.stages)
        if self.config.device != "auto" or trained:
            return
        if any("device" in stage.reads for stage in self.stages if stage.name in todo):
            from ubq.stages.device import find_device

            self.config = self.config.model_copy(update={"device": find_device("auto").type})
            write_config(self.paths, self.config)

    def _stage(self, stage: Stage, stop: StopSignals) -> None:
        """Run one stage unless it is up to date."""
        from ubq.stages.base import StageContext

        store = CheckpointStore(
            self.paths.checkpoints(stage.name),
            self.config.run.keep_checkpoints,
            warn=self.log,
            before_commit=self.before_checkpoint,
        )
        if self.selection.only:
            check_predecessors(stage, self.config, self.paths, self.stages)
        old = self.state.stage(stage.name)
        item = plan_stage(stage, self.state, self.config, self.paths, self.stages, store)
        if item.action == UP_TO_DATE:
            self.check()
            store.clear()  # left where a process was killed as the stage was complete, or by an older ubq
            self.log(_("{stage}: up to date").format(stage=stage.name))
            return
        entry = self._begin(item, old, store)
        context: StageContext = RunContext(self, entry, store, stop)
        begin = time.monotonic()
        forget_peak_memory()
        try:
            if self.leader is not None and stage.trains:
                self.leader.begin(stage.name, self.config, self.paths, entry.step)
            stage.run(context)
        except Stopped:
            entry.state = INTERRUPTED
            raise
        except LostProcessError as error:  # also where torchrun's signal came first
            assert self.leader is not None
            reason = self.leader.reason(error)
            if reason is None:
                raise
            entry.state, entry.error = FAILED, {"message": reason.message, "fix": reason.fix}
            raise reason from error
        except UbqError as error:
            if error.exit_code != EXIT_MARK_FAILED:
                entry.state = FAILED
                entry.error = {"message": error.message, "fix": error.fix}
                raise
            entry.error = {"message": error.message, "fix": error.fix}  # the stage did its work; the run is no good
        except Exception as error:
            full = isinstance(error, OSError) and error.errno in NO_SPACE
            if stop.received is not None and not full:
                # Ctrl-C goes to a stage's worker processes too, and what they leave undone is no failure.
                os.write(self.log_file, "".join(traceback.format_exception(error)).encode())
                entry.state = INTERRUPTED
                raise Stopped from error
            entry.state = FAILED
            entry.error = {"message": _first_line(error), "fix": ""}
            raise
        finally:
            entry.seconds += time.monotonic() - begin
            entry.ended = now()
            entry.peak_memory = max(entry.peak_memory or 0, peak_memory())
            entry.machine = {**this_machine(), "threads": self.config.threads}
            entry.eta = entry.rate = None
        outputs = list(stage.outputs(self.config, self.paths))
        missing = [p for p in outputs if not p.exists()]
        if missing:
            entry.state = FAILED
            raise StageError(
                _("stage {stage} ended without making {path}").format(stage=stage.name, path=missing[0]),
                _("this is a defect of ubq; please report it with run.log"),
            )
        entry.state = COMPLETED
        entry.step = entry.steps = max(entry.step, entry.steps)
        entry.artifacts = [{"path": relative(p, self.paths.root), "bytes": _bytes(p)} for p in outputs]
        entry.last_checkpoint = None
        self.file.save()  # first: a crash after it finds the final files, one before it the checkpoints
        store.clear()
        self.event("stage_completed", stage=stage.name, step=entry.step, seconds=round(entry.seconds, 3))
        self.log(_("{stage}: complete in {time}").format(stage=stage.name, time=duration(entry.seconds)))

    def _begin(self, item: Planned, old: StageState | None, store: CheckpointStore) -> StageState:
        """Bring files and state to the step the stage starts from."""
        why = "; ".join(item.reasons)
        entry = self._starting_entry(item, old, store)
        last_step = item.step if item.action == RESUME else -1  # a stage may write a row of step 0
        self.metrics.keep(lambda row: row.get("stage") != item.name or _step(row) <= last_step)
        self.tracking.begin(item.name, entry.generation, max(last_step, 0))
        entry.state, entry.error, entry.ended = RUNNING, None, None
        entry.started = entry.started or now()
        entry.fingerprint = item.values
        entry.artifacts = []
        self.state.put(entry)
        self.current = entry
        self.file.save()
        if item.action == RESUME:
            self.event("stage_resumed", stage=item.name, step=item.step, reasons=list(item.reasons))
            self.log(_("{stage}: resuming at step {step} ({why})").format(stage=item.name, step=item.step, why=why))
        else:
            self.event("stage_started", stage=item.name, step=0, reasons=list(item.reasons))
            self.log(_("{stage}: running ({why})").format(stage=item.name, why=why))
        return entry

    def _starting_entry(self, item: Planned, old: StageState | None, store: CheckpointStore) -> StageState:
        """The stage's entry at its start, its checkpoints brought to where that is."""
        if item.action == RESUME and item.back is None:
            assert old is not None
            entry = old
        else:
            rows = [row for row in read_rows(self.paths.metrics) if row.get("stage") == item.name]
            back = dict(store.superseded())[item.back] if item.back else {}
            aside = store.set_aside({"entry": dataclasses.asdict(old) if old else {}, "rows": rows})
            if aside:
                where = relative(aside, self.paths.root)
                text = _("{stage}: its checkpoints are kept in {folder} until it completes")
                self.log(text.format(stage=item.name, folder=where))
            if item.back:
                self.metrics.keep(lambda row: row.get("stage") != item.name)
                for row in back["rows"]:
                    self.metrics.append(row)
                entry = stage_from({**back["entry"], "state": INTERRUPTED})
                self.state.put(entry)
                self.file.save()  # first, so that a crash here leaves no checkpoints under other values
                store.bring_back(item.back)
            else:
                entry = StageState(item.name, generation=old.generation if old else 0)
                known = old.fingerprint if old else None
                if known is None or changes(known, item.values, config_values(type(self.config)())):
                    entry.generation += 1
        if item.action == RESUME:
            entry.resumed_from = entry.step = entry.last_checkpoint = item.step
        return entry

    def check(self) -> None:
        """Raise where another process has taken the run over."""
        self.hold.check()

    def before_checkpoint(self) -> None:
        self.hold.check()
        self.metrics.sync()

    def event(self, kind: str, **fields: object) -> None:
        self.hold.check()
        self.events.append(storable({"time": now(), "event": kind, **fields}))

    def log(self, message: str) -> None:
        if not self.hold.lost:
            os.write(self.log_file, f"{now()} {message}\n".encode(errors="surrogateescape"))
        self.console.line(message)

    def _completed(self) -> int:
        state = self.state
        rest = plan(self.config, self.paths, self.stages, state, Selection())
        current = {item.name for item in rest if item.action == UP_TO_DATE}  # marks of anything else are out of date
        done = len(current) == len(rest)
        state.state = COMPLETED if done else PARTIAL
        marks = next(({"stage": s.name, **s.error} for s in state.stages if s.name in current and s.error), None)
        state.error, state.exit_code = marks, EXIT_MARK_FAILED if marks else EXIT_OK
        self.tracking.close(state.exit_code)
        state.next_command = "" if done else self.resume
        self.event("run_completed" if done else "run_paused", exit_code=state.exit_code)
        seconds = sum(s.seconds for s in state.stages)
        if done:
            self.log(_("run {run} is complete after {time}").format(run=state.run, time=duration(seconds)))
        else:
            self.log(_("the stages asked for are complete; go on with: {command}").format(command=self.resume))
        self.file.save()  # last, so that a run that says completed has nothing left to write
        if state.error:
            self._report(state.error["message"], state.error["fix"])
        return state.exit_code

    def _interrupted(self, stop: StopSignals) -> int:
        state = self.state
        state.state, state.exit_code = INTERRUPTED, stop.exit_code
        for entry in state.stages:
            if entry.state == RUNNING:
                entry.state = INTERRUPTED
        self.file.save()
        self.event("interrupted", signal=stop.received)
        self.log(_("interrupted; resume with: {command}").format(command=self.resume))
        return stop.exit_code

    def _failed(self, error: Exception) -> int:
        """Write down a failure and say it in one line; the traceback of a defect goes to run.log."""
        self.hold.check()
        if isinstance(error, UbqError):
            message, fix, code = error.message, error.fix, error.exit_code
        elif isinstance(error, OSError) and error.errno in NO_SPACE:
            message, fix, code = _no_space(self.paths), _("make room on that disk"), EXIT_STAGE_FAILED
        elif is_out_of_memory(error):
            message = _("out of memory: {error}").format(error=_first_line(error))
            fix, code = _("make the stage's batch_size smaller, or its accumulate larger"), EXIT_STAGE_FAILED
        elif isinstance(error, OSError) and error.filename:
            problem = of_the_system(error)
            message, fix, code = problem.message, problem.fix, EXIT_STAGE_FAILED
        else:
            message, code = _first_line(error), EXIT_STAGE_FAILED
            fix = _("the traceback is in {path}").format(path=self.paths.log)
        full = isinstance(error, OSError) and error.errno in NO_SPACE
        state, failed = self.state, self.current
        if isinstance(error, DivergedError) and failed:
            calmer = self._calmer(failed)
            fix = calmer or fix
            state.next_command = calmer or state.next_command  # as it was, the stage fails at the same step
        if failed:
            failed.state, failed.error = FAILED, {"message": message, "fix": fix}
        where = failed.name if failed else ""
        state.error = {"stage": where, "message": message, "fix": fix}
        if is_out_of_memory(error) or (error.__cause__ and is_out_of_memory(error.__cause__)):
            state.error["cause"] = "memory"
        state.state, state.exit_code = FAILED, code
        if code == EXIT_PREFLIGHT and self.fresh:
            state.next_command = ""  # nothing of the run is kept
        self._report(message, fix, where)
        try:
            if not isinstance(error, UbqError) and not full:
                os.write(self.log_file, "".join(traceback.format_exception(error)).encode())
            os.write(self.log_file, f"{now()} error: {message}\n".encode())
            self.file.save()
            kind = "preflight_failed" if code == EXIT_PREFLIGHT else "stage_failed"
            self.event(kind, stage=where, message=message, exit_code=code)
        except OSError as second:
            if second.errno not in NO_SPACE:
                raise
            # It was said above; what state.json says is older, and true of the disk.
        return code

    def _calmer(self, stage: StageState) -> str:
        """The command that goes on with half the learning rate of a stage."""
        fix = fixes.calmer(self.config, stage.name)
        worked = sum(entry.seconds for entry in self.state.stages)  # the file has not heard of the last of them
        return fix.command(self.paths.root, worked) if fix.apply else ""

    def _report(self, message: str, fix: str, stage: str = "") -> None:
        self.console.close()
        where = f"{stage}: " if stage else ""
        lines = [_("error: {error}").format(error=where + message)]
        resume = self.state.next_command
        if fix and fix != resume:
            lines.append(f"  {fix}")
        if resume:
            lines.append("  " + _("resume with: {command}").format(command=resume))
        # whoever reads them may be gone; the run's files and its exit code say it too
        with contextlib.suppress(OSError, ValueError):
            print(printable("\n".join(lines)), file=sys.stderr, flush=True)


def _step(row: dict[str, object]) -> int:
    step = row.get("step")
    return step if isinstance(step, int) else 0


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _no_space(paths: RunPaths) -> str:
    return _("no space left on the disk that holds {folder}").format(folder=paths.root)
