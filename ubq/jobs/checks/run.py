"""How a run stands: its end, its checkpoints, what of it is int8, its success marks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ubq.config.runs import run_command
from ubq.durable import open_regular, parse_json, read_object
from ubq.i18n import gettext as _
from ubq.i18n import joined, restored
from ubq.jobs.checks.check import Check
from ubq.jobs.fixes import MARKS, fix_of, out_of_memory
from ubq.stages.paths import RunPaths
from ubq.states import state_word

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.jobs.state import StageState
    from ubq.jobs.status import Snapshot


WANTED_COVERAGE = {"weight_layers": 1.0, "parameters": 0.999, "macs": 0.99}
"""Shares of the deployed generator that should be int8."""


def run_state(config: Config, run: Path) -> Iterator[Check]:
    """How the run ended, if it did, and what a kill from outside most likely was."""
    from ubq.jobs.state import COMPLETED, CRASHED, FAILED
    from ubq.jobs.status import snapshot

    seen = snapshot(run)
    state = seen.state
    why = _("a run that stopped goes on from its last checkpoint")
    resume = run_command("resume", run)
    if seen.problem:
        yield Check(id="run.state", status="failed", figure=seen.problem, why=why, fix=resume)
    elif seen.shown == CRASHED:
        yield _killed(config, run, seen, resume)
    elif state.state == FAILED:
        error = state.error or {}
        stage = error.get("stage", "")
        # no stage had begun
        where = stage or "preflight"
        figure = _("failed in {stage}: {message}").format(stage=where, message=error.get("message", ""))
        if error.get("cause") == "memory":
            fix = out_of_memory(config, stage, _parts_tried(seen.state.stage(stage)))
            yield Check(
                id="run.memory",
                status="failed",
                figure=figure,
                why=fix.cause,
                fix=fix.command(run),
                apply=fix.apply,
            )
        else:
            fix_text = joined("; ", dict.fromkeys(t for t in (error.get("fix", ""), state.next_command or resume) if t))
            yield Check(id="run.state", status="failed", figure=figure, why=why, fix=fix_text)
    else:
        done = sum(s.state == COMPLETED for s in state.stages)
        figure = _("{state}: {done} of {total} stages complete")
        yield Check(
            id="run.state",
            status="ok",
            figure=figure.format(state=state_word(seen.shown), done=done, total=len(state.stages)),
            why=why,
            fix="" if seen.running or state.state == COMPLETED else resume,
        )
    for line in _memory_events(run):
        yield Check(
            id="run.parts",
            status="warning",
            figure=line,
            why=_("each failed allocation costs a step; the result is the same"),
            fix=_("nothing to do; --set STAGE.accumulate=N starts with smaller parts"),
        )


def _killed(config: Config, run: Path, seen: Snapshot, resume: str) -> Check:
    """A run whose process is gone without a word: no handler runs on SIGKILL, which is what the kernel sends."""
    from ubq.jobs.owner import boot_id, read_owner
    from ubq.jobs.state import RUNNING

    owner = read_owner(run)
    stage = next((s for s in seen.state.stages if s.state == RUNNING), None)
    name = stage.name if stage else ""
    where = _("{stage} at step {step}").format(stage=name, step=stage.step) if stage else _("before its first stage")
    if owner is not None and owner.boot != boot_id():
        return Check(
            id="run.state",
            status="failed",
            figure=_("the machine restarted while the run was in {where}").format(where=where),
            why=_("the run goes on from its last checkpoint"),
            fix=resume,
        )
    fix = out_of_memory(config, name, _parts_tried(stage))
    return Check(
        id="run.memory",
        status="failed",
        figure=_("the process was killed in {where} and could not say why").format(where=where),
        why=fix.cause,
        fix=fix.command(run),
        apply=fix.apply,
    )


def _parts_tried(stage: StageState | None) -> int:
    """Parts of a batch that a stage has come to by itself."""
    notes = stage.notes if stage else []
    return max((n["accumulate"] for n in notes if isinstance(n.get("accumulate"), int)), default=0)


def _memory_events(run: Path) -> Iterator[str]:
    """Failed allocations that the run got over by itself, the last one of each stage."""
    last: dict[str, dict[str, Any]] = {}
    try:
        with open_regular(RunPaths(run).events) as lines:
            for line in lines:
                if b'"out_of_memory"' in line:
                    try:
                        row = parse_json(line)
                    except ValueError:  # the torn last line
                        continue
                    last[str(row.get("stage"))] = row
    except OSError:
        return
    for stage, row in last.items():
        text = _("{stage} ran out of memory at step {step} and goes on in {parts} parts a batch")
        yield text.format(stage=stage, step=row.get("step"), parts=row.get("accumulate"))


def stored_checkpoints(config: Config, run: Path) -> Iterator[Check]:
    """Which step each unfinished stage would go on from."""
    from ubq.jobs.state import COMPLETED, PENDING
    from ubq.jobs.status import snapshot
    from ubq.training.store import CheckpointStore

    paths = RunPaths(run)
    for stage in snapshot(run).state.stages:
        if stage.state in (COMPLETED, PENDING):
            continue
        damaged: list[str] = []
        store = CheckpointStore(paths.checkpoints(stage.name), config.run.keep_checkpoints, warn=damaged.append)
        step = store.latest_step()
        yield Check(
            id=f"checkpoint.{stage.name}",
            status="warning" if damaged else "ok",
            figure=joined("; ", [*damaged, _("goes on from step {step}").format(step=step)]),
            why=_("a damaged checkpoint is passed over for the one before"),
            fix=run_command("resume", run),
        )


def quantisation(config: Config, run: Path | None) -> Iterator[Check]:
    """How much of the generator is int8: planned, and where it has run, counted."""
    why = _("what stays in float costs size and speed on the Pi")
    fix = fix_of("quantised_modules", config)
    off = bool(fix.apply)
    yield Check(
        id="quantisation.plan",
        status="warning" if off else "ok",
        figure=_("switched off or kept in float: {keys}").format(keys=", ".join(fix.apply))
        if off
        else _("every layer, scheme {scheme}").format(scheme=config.quant.scheme),
        why=why,
        fix=fix.command(run) if off else "",
        apply=fix.apply,
    )
    if run is None:
        return
    for stage in ("qat-decoders", "qat-diffusion"):
        analysis = read_object(RunPaths(run).checkpoints(stage) / "quantization_analysis.json")
        counts = analysis.get("model") if analysis else None
        if not isinstance(counts, dict):
            continue
        shares = {
            name: counts[name]["quantised"] / counts[name]["total"]
            for name in WANTED_COVERAGE
            if isinstance(counts.get(name), dict) and counts[name].get("total")
        }
        low = [name for name, share in shares.items() if share < WANTED_COVERAGE[name]]
        yield Check(
            id=f"quantisation.{stage}",
            status="warning" if low else "ok",
            figure=", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()),
            why=why,
            fix=run_command("quant analyze", run) if low else "",
        )


def marks(config: Config, run: Path) -> Iterator[Check]:
    """The success marks of the run's ``report.json``, each with what fixes it."""
    path = RunPaths(run).exported / "report.json"
    if not path.is_file():
        return
    report = read_object(path)
    listed = restored(report.get("marks", []))
    mark_of = {m["id"]: m for m in listed if isinstance(m, dict) and "id" in m}
    if not mark_of:
        again = run_command("resume", run, "--force", "verify")
        yield Check(id="marks.report", status="failed", figure=_("{path} is not a report").format(path=path), fix=again)
    for mark_id in [*MARKS, *(m for m in mark_of if m not in MARKS)]:
        if mark_id not in mark_of:
            continue
        mark = mark_of[mark_id]
        how = mark["how"] if isinstance(mark.get("how"), str) else ""
        value, threshold = _figure(mark.get("value")), _figure(mark.get("threshold"))
        passed = mark.get("passed") is True
        fix_text, apply, cause = "", dict[str, object](), ""
        if not passed:
            fix = fix_of(mark_id, config, how)
            fix_text, apply, cause = fix.command(run), dict(fix.apply), fix.cause
        why = MARKS[mark_id][0] if mark_id in MARKS else ""
        yield Check(
            id=f"marks.{mark_id}",
            status="ok" if passed else "failed",
            figure=_("{value}, wanted {threshold}; {how}").format(value=value, threshold=threshold, how=how),
            why=joined("; ", (t for t in (why, cause) if t)),
            fix=fix_text,
            apply=apply,
        )


def _figure(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_figure(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
