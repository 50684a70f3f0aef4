"""The configuration that a run keeps in its ``config.toml``: everything left to the machine is fixed there."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ubq.cpu import cores
from ubq.data.files import with_data_found
from ubq.durable import write_atomic
from ubq.errors import UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.paths import RunPaths


def freeze(config: Config, paths: RunPaths, preset: str) -> Config:
    """The configuration as the run keeps it: everything that was left to this machine is fixed.

    The thread count and the device are those of the run's first start, since others give other last bits. What
    ``device = "auto"`` is on a machine only torch knows: the run asks it, before its first stage that trains.
    """
    config = with_data_found(config)
    threads, device = config.threads, config.device
    if (not threads or device == "auto") and paths.config.is_file():
        with contextlib.suppress(UsageError):  # one that this ubq cannot read is replaced
            kept = load_frozen(paths)
            threads = threads or kept.threads
            device = kept.device if device == "auto" else device
    changed = {
        "threads": threads or cores(),
        "device": device,
        "run": config.run.model_copy(update={"name": paths.root.name, "dir": str(paths.root.parent)}),
        "export": config.export.model_copy(update={"name": config.export.name or preset or paths.root.name}),
    }
    return config.model_copy(update=changed)


def load_frozen(paths: RunPaths) -> Config:
    """The configuration of an existing run.

    Raises:
        UsageError: there is none, or this ubq cannot read it.
    """
    from ubq.config.load import read_frozen

    if not paths.config.is_file():
        raise UsageError(
            _("run {run} has no config.toml").format(run=paths.root),
            _("start it with: ubq run --run {run} --preset NAME").format(run=paths.root.name),
        )
    return read_frozen(paths.config)


def write_config(paths: RunPaths, config: Config) -> None:
    """Write ``config.toml``, unless it says the same already."""
    from ubq.config.load import write_frozen

    text = write_frozen(config)
    if not paths.config.is_file() or paths.config.read_text(encoding="utf-8") != text:
        write_atomic(paths.config, text.encode())
