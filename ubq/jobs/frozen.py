"""The configuration that a run keeps in its ``config.toml``: everything left to the machine is fixed there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.runs import command
from ubq.cpu import cores
from ubq.data.files import with_data_found
from ubq.durable import dump_json, read_object, write_atomic
from ubq.errors import UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.paths import RunPaths


def freeze(config: Config, paths: RunPaths, preset: str, on_this_machine: bool = True) -> Config:
    """The configuration as the run keeps it: everything that was left to this machine is fixed.

    Paths become absolute, so that the run goes on from any working folder. The thread count and the device are those of
    the run's first start, since others give other last bits. What ``device = "auto"`` is on a machine only torch knows:
    the run asks it, before its first stage that trains.

    Args:
        config: as configured.
        paths: of the run.
        preset: name of the preset it came from.
        on_this_machine: whether the run starts on this machine; else the thread count is left to the one where it does.
    """
    config = with_absolute_paths(with_data_found(config), Path())
    threads, device = config.threads, config.device
    if (not threads or device == "auto") and paths.config.is_file():
        with contextlib.suppress(UsageError):  # one that this ubq cannot read is replaced
            earlier = load_frozen(paths)
            threads = threads or earlier.threads
            device = earlier.device if device == "auto" else device
    changed = {
        "threads": threads or (cores() if on_this_machine else 0),
        "device": device,
        "run": config.run.model_copy(
            update={"name": paths.root.absolute().name, "dir": str(paths.root.absolute().parent)}
        ),
        "export": config.export.model_copy(update={"name": config.export.name or preset or paths.root.name}),
    }
    return config.model_copy(update=changed)


def load_frozen(paths: RunPaths, overrides: Mapping[str, object] | None = None) -> Config:
    """The configuration of an existing run, with other values laid over it.

    Raises:
        UsageError: there is none, this ubq cannot read it, or an override is wrong.
    """
    from ubq.config.load import read_frozen

    if not paths.config.is_file():
        raise UsageError(
            _("run {run} has no config.toml").format(run=paths.root),
            _("start it with: {command}").format(
                command=command("ubq", "run", "--preset", "NAME", "--run", paths.root.name)
            ),
        )
    config = read_frozen(paths.config, overrides)
    return with_absolute_paths(config, _first_working_folder(config, paths))


def _first_working_folder(config: Config, paths: RunPaths) -> Path:
    """Where a run was started whose paths are relative: ubq 0.1.0 froze them as they were given."""
    above, run_dir = paths.root.absolute().parent, Path(config.run.dir)
    if not run_dir.is_absolute():
        run_dir = Path(os.path.normpath(run_dir))
        if run_dir.parts and above.parts[-len(run_dir.parts) :] == run_dir.parts:
            return Path(*above.parts[: -len(run_dir.parts)])
        if not run_dir.parts:
            return above
    return Path()


def with_absolute_paths(config: Config, folder: Path) -> Config:
    """The configuration with every path that is given made absolute, relative ones from a folder."""
    from ubq.config.keys import paths as path_keys

    for path in path_keys():
        tables = [config]
        for name in path[:-1]:
            tables.append(getattr(tables[-1], name))
        value: object = getattr(tables[-1], path[-1])
        if not value:
            continue
        value = os.path.abspath(folder / str(value))
        for table, name in zip(reversed(tables), reversed(path), strict=True):
            value = table.model_copy(update={name: value})
        config = value  # type: ignore[assignment]
    return config


def write_sources(paths: RunPaths, config: Config, provenance: Mapping[str, str], frozen: Config) -> None:
    """Write where each value of ``config.toml`` came from: ``sources.json``, dotted key -> source.

    Args:
        paths: of the run.
        config: what it was started with.
        provenance: where that came from, key by key; what is not said here stays as it was.
        frozen: what the run keeps.
    """
    from ubq.config.rendering import values_of

    before, known = values_of(config), read_object(paths.sources)
    sources = {**known, **provenance}
    for path, value in values_of(frozen).items():
        key = ".".join(path)
        if key in provenance and value != before[path]:
            sources[key] = "this machine"
        elif sources.get(key, "").startswith(f"{paths.config}:"):  # read back from the run itself
            sources[key] = known.get(key, "")
    sources = {key: source for key, source in sources.items() if source}
    if sources != known:
        write_atomic(paths.sources, dump_json(sources, indent=1))


def write_config(paths: RunPaths, config: Config) -> None:
    """Write ``config.toml``, unless it says the same already."""
    from ubq.config.load import write_frozen

    text = write_frozen(config)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            _("the path of the run or of its data is no UTF-8 text: {path}").format(path=paths.root),
            _("rename the folder, or choose another with --runs-dir"),
        ) from error
    if not paths.config.is_file() or paths.config.read_text(encoding="utf-8") != text:
        write_atomic(paths.config, text.encode())
