"""What the machine has: Python, packages, engines, device, disk, memory, terminal."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.runs import runs_dir
from ubq.cpu import cores, memory_available
from ubq.errors import PreflightError
from ubq.i18n import gettext as _
from ubq.jobs.checks.check import Check, CheckStatus, guarded
from ubq.jobs.machine import GB, existing, folder_bytes
from ubq.runtime.processor import exact_engine
from ubq.stages.device import device_memory
from ubq.training.store import SUPERSEDED

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.stages.estimate import StageMemory
    from ubq.stages.paths import RunPaths


LITTLE_DISK = 5 * GB
LITTLE_MEMORY = 6 * GB
"""What the demo needs."""
# A disk with less than this left over fails other things than the run.
SPARE_BYTES = 100_000_000


def environment(config: Config | None) -> list[Check]:
    """The machine and what is installed on it."""
    parts: list[Callable[[], Iterable[Check]]] = [
        _python,
        _packages,
        lambda: _extras(config),
        lambda: _engines(config),
        lambda: _threads(config),
        _cuda,
        lambda: _disk(Path(config.run.dir) if config else runs_dir()),
        _memory,
        _terminal,
        _locale,
    ]
    return [check for check_part in parts for check in guarded("environment", check_part)]


def _python() -> Iterator[Check]:
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield Check(
        id="environment.python",
        status="ok" if fits else "failed",
        figure=f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        why=_("ubq runs on Python 3.11 to 3.13"),
        fix="" if fits else "python3.12 -m venv .venv",
    )


def _packages() -> Iterator[Check]:
    from importlib import metadata

    from packaging.requirements import Requirement

    wrong = []
    for line in metadata.requires("ubq") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            if not requirement.specifier.contains(metadata.version(requirement.name), prereleases=True):
                wrong.append(f"{requirement.name} {metadata.version(requirement.name)} ({requirement.specifier})")
        except metadata.PackageNotFoundError:
            wrong.append(_("{name} is missing").format(name=requirement.name))
    torch_version = metadata.version("torch")
    yield Check(
        id="environment.packages",
        status="failed" if wrong else "ok",
        figure=", ".join(wrong) if wrong else f"torch {torch_version}",
        why=_("the integer kernels and the exported file depend on the version of torch"),
        fix="pip install --upgrade ubq" if wrong else "",
    )


def _extras(config: Config | None) -> Iterator[Check]:
    from ubq.config.extras import EXTRAS, install_line, missing_modules

    present = [extra for extra in EXTRAS if not missing_modules(extra)]
    needed = []
    if config is not None:
        if not config.data.train_velocity and config.data.synth_samples:
            needed.append("physics")
        needed += [f for f in config.export.formats if f in EXTRAS]
        needed += [config.tracking] if config.tracking in EXTRAS else []
    absent = [extra for extra in needed if extra not in present]
    yield Check(
        id="environment.extras",
        status="failed" if absent else "ok",
        figure=_("missing: {names}").format(names=", ".join(absent))
        if absent
        else _("installed: {names}").format(names=", ".join(present) or "-"),
        why=_("synthesising data, further export formats and trackers need packages of their own"),
        fix=install_line(",".join(absent)) if absent else "",
    )


def _engines(config: Config | None) -> Iterator[Check]:
    import torch

    engines = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    backend = config.quant.backend if config else "qnnpack"
    clipped = exact_engine(backend) != backend
    supported = backend in engines and not clipped
    order = ("qnnpack", "fbgemm") if clipped else ("x86", "onednn", "fbgemm", "qnnpack")
    instead = next((e for e in order if e in engines), "")
    yield Check(
        id="environment.engines",
        status="ok" if supported else "warning" if clipped else "failed",
        figure=_("{engines}; quant.backend is {wanted}").format(engines=", ".join(engines) or "-", wanted=backend),
        why=_("this processor has no VNNI instructions: under the engines x86 and onednn its int8 sums are clipped")
        if clipped
        else _("the exported file is judged under the engine it is made for"),
        fix="" if supported else f"--set quant.backend={instead}",
        apply={} if supported else {"quant.backend": instead},
    )


def _threads(config: Config | None) -> Iterator[Check]:
    available, threads = cores(), config.threads if config else 0
    many = threads > available
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    shared = not many and load > available and (threads or available) > 1
    figure = _("{cores} cores, threads = {threads}").format(cores=available, threads=threads or _("all"))
    if shared:
        figure += "; " + _("other work keeps {load:.1f} of them busy").format(load=load)
    apply = {"threads": available} if many else {"threads": 1} if shared else {}
    yield Check(
        id="environment.threads",
        status="warning" if apply else "ok",
        figure=figure,
        why=_("threads of one step wait for each other where other work takes their cores; one thread does not")
        if shared
        else _("more threads than cores slow every step; the count is part of the run"),
        fix=f"--set threads={apply['threads']}" if apply else "",
        apply=apply,
    )


def _cuda() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        each = [f"cuda:{i} {p.name}, {p.total_memory / GB:.0f} GB" for i, p in enumerate(properties)]
        figure = f"CUDA {torch.version.cuda}: {'; '.join(each)}"
    elif torch.version.cuda:
        figure = _("torch is built for CUDA {version}, but no device is found").format(version=torch.version.cuda)
    else:
        figure = _("CPU only")
    lost = bool(torch.version.cuda) and not torch.cuda.is_available()
    yield Check(
        id="environment.cuda",
        status="warning" if lost else "ok",
        figure=figure,
        why=_("the full-size presets take days on a CPU"),
        fix="nvidia-smi" if lost else "",
    )


def _disk(runs: Path) -> Iterator[Check]:
    folder = existing(runs)
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    status: CheckStatus = "ok" if free >= LITTLE_DISK else "warning"
    figure = _("{free:.1f} GB free in {folder}").format(free=free / GB, folder=folder)
    if not writable:
        status, figure = "failed", _("{folder} cannot be written").format(folder=folder)
    yield Check(
        id="environment.disk",
        status=status,
        figure=figure,
        why=_("checkpoints of the full size take 12 GB each, two are kept for each stage"),
        fix="" if status == "ok" else _("make room, or choose another disk: --runs-dir DIR"),
    )


def _memory() -> Iterator[Check]:
    free = memory_available()
    yield Check(
        id="environment.memory",
        status="ok" if free >= LITTLE_MEMORY else "warning",
        figure=_("{free:.1f} GB available").format(free=free / GB),
        why=_("the demo needs up to 6 GB; what a stage of this configuration needs stands below"),
        fix="" if free >= LITTLE_MEMORY else _("close other programs, or use a machine with more memory"),
    )


def _terminal() -> Iterator[Check]:
    columns, rows = shutil.get_terminal_size(fallback=(0, 0))
    kind = os.environ.get("TERM", "")
    if not sys.stdin.isatty() and not sys.stderr.isatty():
        figure, status = _("no terminal"), "ok"
    else:
        figure = f"{columns}x{rows}, TERM={kind or '-'}"
        status = "warning" if kind in ("", "dumb") or (columns and (columns < 60 or rows < 20)) else "ok"
    yield Check(
        id="environment.terminal",
        status="warning" if status == "warning" else "ok",
        figure=figure,
        why=_("ubq wizard needs 60 columns, 20 rows and cursor control; 80x24 shows everything"),
        fix="" if status == "ok" else _("make the window larger, and: export TERM=xterm-256color"),
    )


def _locale() -> Iterator[Check]:
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    fits = encoding == "utf8"
    language = os.environ.get("UBQ_LANG") or os.environ.get("LC_ALL") or os.environ.get("LANG") or "-"
    yield Check(
        id="environment.locale",
        status="ok" if fits else "warning",
        figure=f"{language}, {sys.stdout.encoding}",
        why=_("bars, curves and Chinese text need UTF-8"),
        fix="" if fits else "export LANG=C.UTF-8",
    )


def check_device(device: str, paths: RunPaths | None = None) -> Check:
    """Whether the device that was asked for computes; ``auto`` becomes what it is here.

    Args:
        device: as configured.
        paths: the run that is to use it, if there is one already.
    """
    if device == "cpu":
        return Check(id="device", status="ok", figure=device)
    from ubq.jobs.fixes import Fix
    from ubq.stages.device import try_device

    try:
        return Check(id="device", status="ok", figure=str(try_device(device)))
    except PreflightError as error:
        fix = error.fix
        if shutil.which("srun") and "SLURM_JOB_ID" not in os.environ:
            fix = _("on a cluster's login node, type ubq submit for ubq run; here: {option}").format(option=fix)
        if paths and _has_begun(paths):
            again = Fix("", apply={"device": "cpu"}).command(paths.root)
            fix = _("resume it where there is one, or train anew on the CPU: {command}").format(command=again)
        return Check(
            id="device",
            status="failed",
            figure=error.message,
            why=_("training would fail at its first step"),
            fix=fix,
        )


def _has_begun(paths: RunPaths) -> bool:
    """Whether a stage of a run has ever started: the first start that is refused leaves no run to resume."""
    from ubq.jobs.state import read_state

    state = read_state(paths.state)
    return state is not None and any(stage.fingerprint for stage in state.stages)


def check_disk(config: Config, paths: RunPaths, names: Sequence[str], memory: Mapping[str, StageMemory]) -> Check:
    """Whether the disk takes what the stages will write, beyond what they have written already."""
    from ubq.stages.estimate import disk_needed

    folder = existing(paths.root)
    free = shutil.disk_usage(folder).free
    folders = [paths.checkpoints(name) for name in names]
    written = sum(folder_bytes(folder) - folder_bytes(folder / SUPERSEDED) for folder in folders)
    if "prepare" in names or "model-pairs" in names:
        written += folder_bytes(paths.data if "prepare" in names else paths.modelled)
    needed = max(0, disk_needed(config, names, memory) - written) + SPARE_BYTES
    figure = _("{needed:.1f} GB needed, {free:.1f} GB free in {folder}").format(
        needed=needed / GB, free=free / GB, folder=folder
    )
    enough = free >= needed
    return Check(
        id="disk",
        status="ok" if enough else "failed",
        figure=figure if enough else _("too little disk space: {figure}").format(figure=figure),
        why=_("checkpoints, final weights, synthesised and modelled pairs are written there"),
        fix="" if enough else _("make room, or choose another disk: --runs-dir DIR"),
    )


def check_memory(config: Config, memory: Mapping[str, StageMemory], devices: int = 1) -> list[Check]:
    """Whether the hungriest stage fits the device's memory: weights, gradients, optimiser, average, activations.

    Args:
        memory: of each stage, on one of the devices.
        devices: as many train together, so that ``distributed.shard`` may spread the U-Net over them.
    """
    if not memory:
        return []
    from ubq.jobs.fixes import out_of_memory, too_large

    on_gpu, available = device_memory(config.device)
    setting = config.run.activation_checkpointing
    shard = config.distributed.shard
    spread = {name: needed.sharded(shard, setting, available, devices) for name, needed in memory.items()}
    trained = {name: needed.on(setting, available) for name, needed in spread.items()}
    stage, needed = max(trained.items(), key=lambda item: item[1].total)
    text = _("{stage} needs {needed:.1f} GB of memory, {available:.1f} GB are available")
    if needed != spread[stage]:
        text = _(
            "{stage} needs {needed:.1f} GB of memory with activation checkpointing, {available:.1f} GB are available"
        )
    figure = text.format(stage=stage, needed=needed.total / GB, available=available / GB)
    if needed.shards > 1:
        figure = _("{figure}; the U-Net is spread over {count} devices").format(figure=figure, count=needed.shards)
    why = _("weights, gradients, optimiser, moving average and activations of one step")
    if needed.total <= available:
        room = memory_available() - needed.checkpoint if on_gpu else available - needed.total
        if room < needed.checkpoint:  # what ``ubq.training.saving`` asks for
            figure = _("{figure}; its checkpoints of {size:.1f} GB are not written beside training").format(
                figure=figure, size=needed.checkpoint / GB
            )
        return [Check(id="memory", status="ok", figure=figure, why=why)]
    # A GPU that runs out says so, and the training loop goes on with smaller parts; on a CPU the kernel kills.
    fits_in_parts = needed.total - needed.activations <= available
    splits = on_gpu and fits_in_parts
    fix = out_of_memory(config, stage) if fits_in_parts else too_large(on_gpu)
    return [
        Check(
            id="memory",
            status="warning" if splits else "failed",
            figure=figure,
            why=why,
            fix=fix.command(None),
            apply=fix.apply,
        )
    ]
