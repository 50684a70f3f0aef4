"""Experiment trackers: the rows of ``metrics.jsonl`` also go to TensorBoard or Weights & Biases.

A tracker is a guest. It runs in a thread of its own, is imported there with the first row, and
whatever it does (missing package, no network, full disk, an exception at any call, a call that never
returns) costs the run one line in ``run.log``.

What it keeps lies in ``runs/NAME/tracking/``: event files by stage, or wandb's folder and the id by
which a resumed run goes on with the same one.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ubq.durable import plain, write_atomic
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.paths import RunPaths

WAITING_ROWS = 10_000
"""Rows that may wait for a slow tracker; with more it counts as failed."""
PATIENCE = 30.0
"""Seconds that the end of a run waits for its tracker to send what is left."""
HURRY = 3.0
"""The same for a run that was told to stop."""


class Tracker(Protocol):
    """One tracker's calls, all made in one thread, any of which may raise."""

    def begin(self, stage: str, generation: int, step: int) -> None:
        """A stage starts after ``step``; what a tracker holds of later steps is not part of the run."""
        ...

    def row(self, stage: str, step: int, figures: Mapping[str, object]) -> None:
        """One row of ``metrics.jsonl``."""
        ...

    def close(self, exit_code: int) -> None:
        """Send what is left."""
        ...


class TensorBoard:
    """Event files in ``tracking/tensorboard/STAGE``, and the configuration as text beside them.

    A folder for each stage, since a restart purges by step all that its folder holds.
    """

    def __init__(self, config: Config, paths: RunPaths) -> None:
        from torch.utils.tensorboard import SummaryWriter

        from ubq.config.load import write_frozen

        self._open = SummaryWriter
        self._folder = folder_of(paths) / "tensorboard"
        self._purge: dict[str, int] = {}
        self._writers: dict[str, Any] = {}
        with SummaryWriter(str(self._folder), purge_step=0) as writer:
            writer.add_text("config", f"```toml\n{write_frozen(config)}```", 0)

    def begin(self, stage: str, generation: int, step: int) -> None:
        if stage in self._writers:
            self._writers.pop(stage).close()
        # A stage may write a row of step 0 before its first step.
        self._purge[stage] = step + 1 if step else 0

    def row(self, stage: str, step: int, figures: Mapping[str, object]) -> None:
        if stage not in self._writers:  # stages without figures get no file
            folder, purge = str(self._folder / stage), self._purge[stage]
            self._writers[stage] = self._open(folder, purge_step=purge, flush_secs=15)
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writers[stage].add_scalar(name, value, step)

    def close(self, exit_code: int) -> None:
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """One wandb run, in project ``ubq`` unless ``WANDB_PROJECT`` names another.

    wandb cannot take rows back: a resumed stage sends the steps since its checkpoint again, with the same
    figures, and a stage that starts over with other values gets names of its own (``qat-diffusion#2/loss``).
    Without an account on this machine it records offline, for ``wandb sync``.
    """

    def __init__(self, config: Config, paths: RunPaths) -> None:
        import wandb

        from ubq.config.rendering import as_tables

        folder = folder_of(paths)
        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            save_code=False,
            init_timeout=PATIENCE,
            finish_timeout=PATIENCE,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ubq"),
            id=self._identity(folder / "wandb.json"),
            resume="allow",
            name=paths.root.name,
            dir=str(folder),
            # Left to itself wandb asks for a key, and nobody may be there to answer.
            mode=None if os.environ.get("WANDB_MODE") or wandb.login(prompt=False, verify=False) else "offline",
            settings=settings,
        )
        self._run.config.update(as_tables(config), allow_val_change=True)
        self._names: dict[str, str] = {}

    @staticmethod
    def _identity(file: Path) -> str:
        """The id of this run's wandb run, made at its first start."""
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["id"])
        except (OSError, ValueError, KeyError, TypeError):
            identity = secrets.token_hex(8)
            write_atomic(file, json.dumps({"id": identity}).encode() + b"\n")
            return identity

    def begin(self, stage: str, generation: int, step: int) -> None:
        name = stage if generation < 2 else f"{stage}#{generation}"
        self._names[stage] = name
        self._run.define_metric(f"{name}/step", hidden=True)
        self._run.define_metric(f"{name}/*", step_metric=f"{name}/step")

    def row(self, stage: str, step: int, figures: Mapping[str, object]) -> None:
        name = self._names[stage]
        self._run.log({f"{name}/step": step, **{f"{name}/{k}": v for k, v in figures.items()}})

    def close(self, exit_code: int) -> None:
        self._run.finish(exit_code=exit_code)


TRACKERS: Mapping[str, Callable[[Config, RunPaths], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}
"""Value of ``tracking`` -> the tracker; "none" has none."""


def folder_of(paths: RunPaths) -> Path:
    """Where a run's tracker keeps its files."""
    return paths.root / "tracking"


class Tracking:
    """Hands rows to the tracker that the configuration names, without ever waiting for it.

    Args:
        config: the run's; ``tracking`` names the tracker.
        paths: the run's folder.
        warn: gets one line, once, when the tracker fails; may be called from another thread.
    """

    def __init__(self, config: Config, paths: RunPaths, warn: Callable[[str], None]) -> None:
        self._make = TRACKERS.get(config.tracking)
        self._name = config.tracking
        self._config, self._paths, self._warn = config, paths, warn
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(WAITING_ROWS)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._off = self._make is None  # failed, closed, or never on; nothing is warned of any more

    def begin(self, stage: str, generation: int, step: int) -> None:
        """A stage starts after ``step``, for the ``generation``-th time with other values."""
        self._put(lambda tracker: tracker.begin(stage, generation, step))

    def row(self, stage: str, step: int, figures: Mapping[str, object]) -> None:
        """One row of ``metrics.jsonl``."""
        if self._off:
            return
        known = {k: v for k, v in ((k, plain(v)) for k, v in figures.items()) if v is not None}
        self._put(lambda tracker: tracker.row(stage, step, known))
        if self._thread is None:  # with the first row: stages without figures cost no import
            self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
            self._thread.start()

    def close(self, exit_code: int = 0) -> None:
        """Wait for the tracker to send what is left, but not for long; a second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._put(lambda tracker: tracker.close(exit_code))
            self._put(None)
            if not self._off:
                thread.join(HURRY if exit_code > 128 else PATIENCE)
            if thread.is_alive():
                self._fail(_("it does not end"))
        with self._lock:
            self._off = True

    def _put(self, call: Callable[[Tracker], None] | None) -> None:
        if self._off:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._fail(_("it does not keep up"))

    def _work(self) -> None:
        try:
            assert self._make is not None
            tracker = self._make(self._config, self._paths)
            while not self._off and (call := self._calls.get()) is not None:
                call(tracker)
        except BaseException as error:  # wandb raises SystemExit, too
            text = str(error).strip().splitlines()
            self._fail(f"{type(error).__name__}: {text[0]}" if text else type(error).__name__)

    def _fail(self, reason: str) -> None:
        text = _("warning: {tracker} gets no more rows; metrics.jsonl has them all: {reason}")
        with self._lock:
            if not self._off:
                self._off = True
                self._warn(text.format(tracker=self._name, reason=reason))
