"""How runs and plans read: text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ubq.figures import columns, duration, padded, size
from ubq.i18n import gettext as _
from ubq.jobs.console import figures
from ubq.jobs.status import Snapshot, percent
from ubq.slurm.record import log_of
from ubq.states import state_word

if TYPE_CHECKING:
    from ubq.jobs.plan import Planned
    from ubq.jobs.state import StageState
    from ubq.slurm.queue import Job


def describe(shot: Snapshot, job: Job | None = None) -> str:
    """A run's status for people, several lines; with its job, where Slurm has one."""
    state = shot.state
    head = f"{state.run}: {state_word(shot.shown)}"
    if state.preset and state.preset != state.run:
        head += " " + _("(preset {preset})").format(preset=state.preset)
    lines = [head]
    if shot.problem:
        lines.append(shot.problem)
    width = max((len(s.name) for s in state.stages), default=0)
    for stage in state.stages:
        lines.append("  " + _stage_line(stage, width, shot))
        if stage.notes:  # the last one says how the stage goes on
            text = _("out of memory at step {step}: went on with {part_size} samples at a time")
            lines.append(" " * (width + 4) + text.format(**{"step": "?", "part_size": "?"} | stage.notes[-1]))
    if state.error:
        where = f"{state.error.get('stage')}: " if state.error.get("stage") else ""
        lines.append(_("error: {error}").format(error=where + str(state.error.get("message"))))
        if state.error.get("fix") not in (None, "", state.next_command):
            lines.append(f"  {state.error['fix']}")
    if shot.owner:
        owner = shot.owner
        lines.append(
            _("process {pid} on {host} since {since}").format(pid=owner.pid, host=owner.host, since=owner.since)
        )
        lines += _processes(state.processes)
    elif shot.shown == "crashed" and not (job and job.queued):
        lines.append(_("its process is gone without saving") + "; " + _to_repeat(shot))
    if job is not None and job.queued:
        lines.append(_job(job))
    elif job is not None and shot.shown in ("pending", "crashed"):  # the run itself does not say why
        lines.append(_job(job) + "  " + str(log_of(shot.paths.root, job)))
    exported = [a for a in state.artifacts if str(a.get("path")).startswith("exported")]
    lines += [f"{shot.paths.root / a['path']}  {size(a.get('bytes'))}" for a in exported]
    if state.next_command and not shot.running:
        lines.append(_("next: {command}").format(command=state.next_command))
    return "\n".join(lines)


def _processes(processes: list[dict[str, Any]]) -> list[str]:
    """Which ranks are on which host."""
    hosts: dict[str, list[str]] = {}
    for process in processes:
        hosts.setdefault(str(process.get("host")), []).append(str(process.get("rank")))
    text = _("ranks {ranks} on {host}")
    return [text.format(ranks=", ".join(ranks), host=host) for host, ranks in hosts.items()]


def _job(job: Job) -> str:
    """A job of Slurm, as its queue has it."""
    line = _("job {job} of Slurm: {state}").format(job=job.id, state=job.state or _("gone"))
    line += f" ({job.reason})" if job.reason else ""
    if job.nodes:
        line += " " + _("on {nodes}").format(nodes=job.nodes)
    return line + (", " + _("partition {name}").format(name=job.partition) if job.queued else "")


def _to_repeat(shot: Snapshot) -> str:
    """What of a crashed run is lost: the steps since the last checkpoint, with the time they took."""
    stage = next((s for s in shot.state.stages if s.state == "running"), None)
    if stage is None:
        return _("no stage was at work, nothing is repeated")
    checkpoint = stage.last_checkpoint or 0
    lost = max(stage.step - checkpoint, 0)
    if not checkpoint:
        text = _("{stage} has no checkpoint and starts over: {lost} steps are repeated")
    else:
        text = _("{stage} goes on from step {step}: {lost} steps are repeated")
    message = text.format(stage=stage.name, step=checkpoint, lost=lost)
    return message + (f" ({duration(lost / stage.rate)})" if stage.rate and lost else "")


def _stage_line(stage: StageState, width: int, shot: Snapshot) -> str:
    shown = "crashed" if stage.state == "running" and shot.shown == "crashed" else stage.state
    parts = [f"{stage.name:<{width}}  {padded(state_word(shown), 11)}"]
    if stage.steps:
        parts.append(f"{stage.step}/{stage.steps} {percent(stage.step, stage.steps, stage.state):.0f} %")
    if stage.state == "completed":
        if stage.loss is not None:
            parts.append(_("loss {loss:.4g}").format(loss=stage.loss))
        parts.append(duration(stage.seconds))
    elif stage.state != "pending":
        parts.append(figures(stage))
    if stage.best_loss is not None:
        parts.append(_("best {loss:.4g}").format(loss=stage.best_loss))
    if stage.last_checkpoint is not None and stage.state != "completed":
        parts.append(_("checkpoint {step}").format(step=stage.last_checkpoint))
    return "  ".join(p for p in parts if p).rstrip()


def plan_text(planned: Sequence[Planned]) -> str:
    """What a start would do with each stage, a line each."""
    from ubq.jobs.plan import RESUME, RUN, UP_TO_DATE

    actions = {RUN: _("run"), RESUME: _("resume at step {step}"), UP_TO_DATE: _("up to date")}
    width = max((len(p.name) for p in planned), default=0)
    lines = []
    for item in planned:
        action = actions.get(item.action, item.action).format(step=item.step)
        why = f"  ({'; '.join(item.reasons)})" if item.reasons else ""
        lines.append(f"{item.name:<{width}}  {action}{why}")
        if item.aside:
            text = _("sets aside in superseded/: {checkpoints} ({time} of work)")
            text = text.format(checkpoints=", ".join(item.aside), time=duration(item.discards))
            lines.append(" " * (width + 2) + text)
        elif item.discards:
            text = _("does {time} of work over").format(time=duration(item.discards))
            lines.append(" " * (width + 2) + text)
    return "\n".join(lines)


def run_row(shot: Snapshot) -> dict[str, Any]:
    """A run in the list of runs."""
    current = next((s for s in shot.state.stages if s.state != "completed"), None)
    return {
        "run": shot.state.run,
        "state": shot.shown,
        "preset": shot.state.preset,
        "stage": current.name if current else "",
        "percent": percent(current.step, current.steps, current.state) if current else 100.0,
        "updated": shot.state.updated,
        "folder": str(shot.paths.root),
    }


def rows_text(rows: Sequence[dict[str, Any]]) -> str:
    """The list of runs, a line each."""
    width = max(columns(str(r["run"])) for r in rows)
    lines = []
    for row in rows:
        where = f"{row['stage']} {row['percent']:.0f} %" if row["stage"] else ""
        state = padded(state_word(row["state"]), 11)
        lines.append(f"{padded(row['run'], width)}  {state}  {row['updated']}  {where}".rstrip())
    return "\n".join(lines)
