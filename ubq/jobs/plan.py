"""Which stages a start has to run, from where, and why."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ubq.errors import UsageError
from ubq.figures import duration
from ubq.i18n import gettext as _
from ubq.jobs.fingerprints import Values, changes, config_values, fingerprint, relative
from ubq.jobs.state import COMPLETED, RunState
from ubq.states import state_word
from ubq.training.store import CheckpointStore

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.base import Stage
    from ubq.stages.paths import RunPaths

RUN = "run"
RESUME = "resume"
UP_TO_DATE = "up to date"
UNASKED_S = 600.0
"""Seconds of work that a start does over without being asked to."""


@dataclass(frozen=True)
class Planned:
    """What a start does with one stage."""

    name: str
    action: str
    """``run``, ``resume`` or ``up to date``."""
    step: int
    """Training step it goes on from."""
    reasons: tuple[str, ...]
    """Why, in values (``qat.epochs 50 -> 30``)."""
    values: Values
    discards: float = 0.0
    """Seconds of work on other values that it does over."""
    aside: tuple[str, ...] = ()
    """Checkpoints that it moves to ``superseded/``, relative to the run's folder."""
    back: Path | None = None
    """Checkpoints of these very values, set aside earlier, that it goes on from."""

    def as_dict(self) -> dict[str, Any]:
        record = {"name": self.name, "action": self.action, "step": self.step, "reasons": list(self.reasons)}
        if self.aside:
            record["superseded"] = list(self.aside)
        if self.aside or self.discards:
            record["discards_seconds"] = round(self.discards, 1)
        return record


@dataclass(frozen=True)
class Selection:
    """Which stages the user asked for.

    Args:
        only: this stage alone, from the files that are there.
        until: this stage and those before it.
        force: this stage and those that depend on it run again.
        yes: work may be discarded.
    """

    only: str = ""
    until: str = ""
    force: str = ""
    yes: bool = False

    def check(self, config: Config, stages: Sequence[Stage]) -> None:
        """Raises UsageError for a stage that does not exist or that this configuration leaves out."""
        names = [s.name for s in stages]
        for option, name in (("--only", self.only), ("--until", self.until), ("--force", self.force)):
            if not name:
                continue
            if name not in names:
                close = get_close_matches(name, names, n=1)
                raise UsageError(
                    _("{option}: there is no stage {name}").format(option=option, name=name),
                    _("did you mean {close}?").format(close=close[0])
                    if close
                    else _("stages: {names}").format(names=", ".join(names)),
                )
            if not next(s for s in stages if s.name == name).applies(config):
                raise UsageError(
                    _("{option}: this configuration has no stage {name}").format(option=option, name=name),
                    _("stages: {names}").format(names=", ".join(s.name for s in stages if s.applies(config))),
                )

    def stages(self, config: Config, stages: Sequence[Stage]) -> list[Stage]:
        """The stages to look at, in order."""
        applying = [s for s in stages if s.applies(config)]
        if self.only:
            return [s for s in applying if s.name == self.only]
        if self.until:
            return applying[: [s.name for s in applying].index(self.until) + 1]
        return applying

    def forced(self, stages: Sequence[Stage]) -> set[str]:
        """The forced stage and all that depend on it."""
        names = {self.force} if self.force else set()
        for stage in stages:  # in order, so that one pass finds the dependents of dependents
            if names.intersection(stage.after):
                names.add(stage.name)
        return names


def plan_stage(
    stage: Stage,
    state: RunState | None,
    config: Config,
    paths: RunPaths,
    stages: Sequence[Stage],
    store: CheckpointStore,
    forced: bool = False,
    before: Collection[str] = (),
) -> Planned:
    """What to do with one stage.

    Args:
        state: the run's, if it has any.
        store: its checkpoints.
        forced: run it from the start whatever it is.
        before: stages that will have run before it.
    """
    from ubq.config.schema import Config as Schema

    entry = state.stage(stage.name) if state else None
    values = fingerprint(stage, config, paths, stages, state)

    def planned(action: str, *reasons: str, step: int = 0) -> Planned:
        return Planned(stage.name, action, step, reasons, values)

    def over(*reasons: str, back: Path | None = None, step: int = 0) -> Planned:
        aside = tuple(relative(store.folder / f"step-{s}", paths.root) for s in store.steps())
        discards = entry.seconds if entry is not None and back is None else 0.0
        return Planned(stage.name, RESUME if back else RUN, step, reasons, values, discards, aside, back)

    if forced:
        return over(_("forced"))
    if entry is None or entry.fingerprint is None:
        return planned(RUN, _("not run yet"))
    upstream = [name for name in stage.after if name in before]
    known = {k: v for k, v in entry.fingerprint.items() if not _is_from(k, upstream)}
    fresh = {k: v for k, v in values.items() if not _is_from(k, upstream)}
    reasons = changes(known, fresh, config_values(Schema()))
    reasons += [_("{stage} runs before it").format(stage=name) for name in upstream]
    back, at = (None, 0) if upstream else _set_aside_with(values, store)
    if back is not None:
        reasons_back = [*reasons, _("{folder} has these values").format(folder=relative(back, paths.root))]
    if reasons:
        return over(*reasons) if back is None else over(*reasons_back, back=back, step=at)
    missing = [relative(p, paths.root) for p in stage.outputs(config, paths) if not p.exists()]
    if entry.state == COMPLETED and not missing:
        return planned(UP_TO_DATE)
    why = _("{path} is missing").format(path=missing[0]) if entry.state == COMPLETED else state_word(entry.state)
    step = store.latest_step()
    if step == 0 and back is not None:  # its process was killed while it brought them back
        return over(why, *reasons_back, back=back, step=at)
    if step:
        return planned(RESUME, why, step=step)
    if entry.state == COMPLETED:  # its checkpoints are gone: all of its work is done over
        return over(why)
    return planned(RUN, why, _("no checkpoint yet"))


def _set_aside_with(values: Values, store: CheckpointStore) -> tuple[Path | None, int]:
    """Checkpoints that were set aside and are of these very values, and the step of the newest sound one."""
    from ubq.config.schema import Config as Schema

    for folder, facts in store.superseded():
        entry = facts.get("entry")
        known = entry.get("fingerprint") if isinstance(entry, dict) else None
        if known and not changes(known, values, config_values(Schema())):
            step = store.within(folder).latest_step()
            if step:
                return folder, step
    return None, 0


def plan(
    config: Config, paths: RunPaths, stages: Sequence[Stage], state: RunState | None, selection: Selection
) -> list[Planned]:
    """What a start would do with each stage asked for.

    Raises:
        UbqError: a stage's inputs cannot be listed; with ``only``, files of the stages before it are missing.
    """
    forced = selection.forced(stages)
    result: list[Planned] = []
    running: set[str] = set()
    for stage in selection.stages(config, stages):
        store = CheckpointStore(paths.checkpoints(stage.name))
        if selection.only:
            check_predecessors(stage, config, paths, stages)
        item = plan_stage(stage, state, config, paths, stages, store, stage.name in forced, running)
        if item.action != UP_TO_DATE:
            running.add(stage.name)
        result.append(item)
    return result


def check_discards(planned: Sequence[Planned], selection: Selection, stages: Sequence[Stage]) -> None:
    """Raises UsageError where a start would do more work over than goes unasked."""
    lost = [p for p in planned if p.discards and p.name not in selection.forced(stages)]
    seconds = sum(p.discards for p in lost)
    if selection.yes or seconds <= UNASKED_S:
        return
    what = ", ".join(f"{p.name} ({'; '.join(p.reasons)})" for p in lost)
    raise UsageError(
        _("{time} of work would be done over: {stages}").format(time=duration(seconds), stages=what),
        _("to do so, add --yes or --force {stage}; --dry-run shows the plan").format(stage=lost[0].name),
    )


def check_predecessors(stage: Stage, config: Config, paths: RunPaths, stages: Sequence[Stage]) -> None:
    """Raises UsageError where a file that a stage needs from those before it is missing."""
    for other in stages:
        if other.name in stage.after and other.applies(config):
            for path in other.outputs(config, paths):
                if not path.exists():
                    raise UsageError(
                        _("stage {stage} needs {path}, which is not there").format(stage=stage.name, path=path),
                        _("make it with: {command}").format(command=f"--only {other.name}"),
                    )


def _is_from(key: str, stages: Sequence[str]) -> bool:
    return any(key.startswith(f"from {name}: ") or key == f"after {name}" for name in stages)
