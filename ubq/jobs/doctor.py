"""The troubleshooting checklist: machine, configuration, data, checkpoint, memory, quantisation, success marks.

``ubq doctor`` prints it and the text UI shows it. Nothing is changed, and a check that breaks is a
warning of its own, never the end of the others.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.jobs.checks import Check, CheckStatus
from ubq.jobs.mends import MARKS, mend_of, out_of_memory, training_of
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.jobs.state import StageState
    from ubq.jobs.status import Snapshot

GB = 1e9
LITTLE_DISK = 5 * GB
LITTLE_MEMORY = 6 * GB
"""What the demo needs."""
WANTED_COVERAGE = {"weight_layers": 1.0, "parameters": 0.999, "macs": 0.99}
"""Shares of the deployed generator that should be int8."""


def examine(config: Config | None, run: Path | None = None) -> list[Check]:
    """All checks that apply.

    Args:
        config: a valid configuration; None: only the machine is looked at.
        run: folder of a run; None: nothing has run yet.
    """
    checks = environment(config)
    if config is not None:
        checks += [
            *_guarded("parameters", lambda: parameters(config)),
            *_guarded("data", lambda: data(config, run)),
            *_guarded("checkpoint", lambda: checkpoint(config)),
            *_guarded("preflight", lambda: machine_for(config, run)),
        ]
    if run is not None and config is not None:
        checks += [
            *_guarded("run", lambda: run_state(config, run)),
            *_guarded("checkpoint", lambda: stored_checkpoints(config, run)),
        ]
    if config is not None:
        checks += _guarded("quantisation", lambda: quantisation(config, run))
    if run is not None and config is not None:
        checks += _guarded("marks", lambda: marks(config, run))
    return checks


def _guarded(area: str, look: Callable[[], Iterable[Check]]) -> list[Check]:
    """The checks of one area; what breaks in it becomes one of them."""
    found: list[Check] = []
    try:
        found.extend(look())
    except UbqError as error:
        found.append(Check(id=f"{area}.readable", status="failed", figure=error.message, mend=error.mend))
    except Exception as error:
        figure = _("could not be checked: {error}").format(error=f"{type(error).__name__}: {error}".splitlines()[0])
        found.append(Check(id=f"{area}.checked", status="warning", figure=figure))
    return found


def environment(config: Config | None) -> list[Check]:
    """The machine and what is installed on it."""
    looks: list[Callable[[], Iterable[Check]]] = [
        _python,
        _packages,
        lambda: _extras(config),
        lambda: _engines(config),
        lambda: _threads(config),
        _cuda,
        lambda: _disk(Path(config.run.dir) if config else Path("runs")),
        _memory,
        _terminal,
        _locale,
    ]
    return [check for look in looks for check in _guarded("environment", look)]


def _python() -> Iterator[Check]:
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield Check(
        id="environment.python",
        status="ok" if fits else "failed",
        figure=f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        why=_("ubq runs on Python 3.11 to 3.13"),
        mend="" if fits else "python3.12 -m venv .venv",
    )


def _packages() -> Iterator[Check]:
    from importlib import metadata

    from packaging.requirements import Requirement

    wrong = []
    for line in metadata.requires("ubq") or []:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            if not wanted.specifier.contains(metadata.version(wanted.name), prereleases=True):
                wrong.append(f"{wanted.name} {metadata.version(wanted.name)} ({wanted.specifier})")
        except metadata.PackageNotFoundError:
            wrong.append(_("{name} is missing").format(name=wanted.name))
    torch_version = metadata.version("torch")
    yield Check(
        id="environment.packages",
        status="failed" if wrong else "ok",
        figure=", ".join(wrong) if wrong else f"torch {torch_version}",
        why=_("the integer kernels and the exported file depend on the version of torch"),
        mend="pip install --upgrade ubq" if wrong else "",
    )


def _extras(config: Config | None) -> Iterator[Check]:
    from ubq.config.extras import EXTRAS, install_line, missing_modules

    present = [extra for extra in EXTRAS if not missing_modules(extra)]
    needed = []
    if config is not None:
        if not config.data.train_velocity and not config.pretrained.path:
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
        mend=install_line(",".join(absent)) if absent else "",
    )


def _engines(config: Config | None) -> Iterator[Check]:
    import torch

    engines = [e for e in torch.backends.quantized.supported_engines if e != "none"]
    wanted = config.quant.backend if config else "qnnpack"
    there = wanted in engines
    instead = next((e for e in ("x86", "onednn", "fbgemm", "qnnpack") if e in engines), "")
    yield Check(
        id="environment.engines",
        status="ok" if there else "failed",
        figure=_("{engines}; quant.backend is {wanted}").format(engines=", ".join(engines) or "-", wanted=wanted),
        why=_("the exported file is judged under the engine it is made for"),
        mend="" if there else f"--set quant.backend={instead}",
        apply={} if there else {"quant.backend": instead},
    )


def _threads(config: Config | None) -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = config.threads if config else 0
    many = threads > cores
    yield Check(
        id="environment.threads",
        status="warning" if many else "ok",
        figure=_("{cores} cores, threads = {threads}").format(cores=cores, threads=threads or _("all")),
        why=_("more threads than cores slow every step; the count is part of the run"),
        mend=f"--set threads={cores}" if many else "",
        apply={"threads": cores} if many else {},
    )


def _cuda() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
        figure = f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} x {name}, {memory / GB:.0f} GB"
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
        mend="nvidia-smi" if lost else "",
    )


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


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
        mend="" if status == "ok" else _("make room, or choose another disk: --runs-dir DIR"),
    )


def memory_available() -> int:
    """Bytes that a process may still take here, the container's limit included."""
    import psutil

    free = psutil.virtual_memory().available
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return max(0, free)


def _memory() -> Iterator[Check]:
    free = memory_available()
    yield Check(
        id="environment.memory",
        status="ok" if free >= LITTLE_MEMORY else "warning",
        figure=_("{free:.1f} GB available").format(free=free / GB),
        why=_("the demo needs up to 6 GB; what a stage of this configuration needs stands below"),
        mend="" if free >= LITTLE_MEMORY else _("close other programs, or use a machine with more memory"),
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
        mend="" if status == "ok" else _("make the window larger, and: export TERM=xterm-256color"),
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
        mend="" if fits else "export LANG=C.UTF-8",
    )


def parameters(config: Config) -> Iterator[Check]:
    """What is valid and still unlikely to be meant."""
    yield Check(
        id="parameters.valid",
        status="ok",
        figure=_("no mistakes"),
        why=_("a wrong value would cost a run"),
    )
    ptq = [
        n for n in ("decoders", "diffusion") if not getattr(config.qat, n).epochs and not getattr(config.qat, n).steps
    ]
    if ptq:
        yield Check(
            id="parameters.qat",
            status="warning",
            figure=_("no quantisation-aware training of: {parts}").format(parts=", ".join(ptq)),
            why=_("calibration alone loses more quality"),
            mend="--set qat.epochs=50",
            apply={"qat.epochs": 50},
        )
    if config.quant.scheme == "default":
        yield Check(
            id="parameters.scheme",
            status="warning",
            figure="quant.scheme = default",
            why=_("one scale for a whole tensor loses more quality than one for each channel"),
            mend="--set quant.scheme=aggressive",
            apply={"quant.scheme": "aggressive"},
        )


def data(config: Config, run: Path | None) -> Iterator[Check]:
    """Files and pairs: found, paired, split. Headers alone are read."""
    why = _("a stage that meets a damaged file stops hours later")
    if not config.data.train_velocity:
        count = config.data.synth_samples
        figure = _("none given: {count} {family}-like pairs will be synthesised")
        yield Check(id="data.files", status="ok", figure=figure.format(count=count, family=config.data.family), why=why)
    else:
        from ubq.data.families import recognise
        from ubq.data.pairs import open_pairs

        split = open_pairs(config.data, config.seed)
        figure = _("{train} training and {val} held-out pairs: {rule}")
        figure = figure.format(train=len(split.train), val=len(split.val), rule=split.rule)
        yield Check(id="data.files", status="ok", figure=figure, why=why)
        files = [pair for side in (split.train, split.val) for pair in side.files]
        ids = [pair.id for pair in files if pair.id is not None]
        folders = {part for pair in files for part in pair.velocity.path.resolve().parent.parts[-3:]}
        families = recognise(ids, folders) if len(ids) == len(files) else ()
        fits = not families or config.data.family in families
        yield Check(
            id="data.family",
            status="ok" if fits else "warning",
            figure=config.data.family
            if fits
            else _("data.family is {family}, the file names are those of {families}").format(
                family=config.data.family, families=", ".join(families)
            ),
            why=_("the data set decides the amplitude range and the official split"),
            mend="" if fits else f"--set data.family={families[0]}",
            apply={} if fits else {"data.family": families[0]},
        )
    if run is not None and (seen := _read_json(RunPaths(run).data / "dataset.json")):
        for warning in seen.get("warnings", []):
            yield Check(id="data.content", status="warning", figure=str(warning), why=why)


def checkpoint(config: Config) -> Iterator[Check]:
    """The checkpoint to import, where one is named."""
    for key, name in (
        ("pretrained.path", config.pretrained.path),
        ("pretrained.decoder_path", config.pretrained.decoder_path),
    ):
        if not name:
            continue
        path = Path(name).expanduser()
        if not path.is_file():
            yield Check(
                id=f"checkpoint.{key.rpartition('.')[2]}",
                status="failed",
                figure=_("{path} does not exist").format(path=path),
                why=_("the model is read from it"),
                mend=f"--set {key}=FILE",
            )
        elif key == "pretrained.path":
            yield from _importable(config, path)
    if not config.pretrained.path:
        yield Check(
            id="checkpoint.path",
            status="ok",
            figure=_("none given: the model is pretrained"),
            why=_("pretraining takes longest"),
        )


def _importable(config: Config, path: Path) -> Iterator[Check]:
    """What is in the checkpoint, and whether the ranges are those it was trained with."""
    from ubq.checkpoints.importer import inspect_checkpoint

    why = _("the model is read from it, and nothing is loaded with holes")
    decoders = config.pretrained.decoder_path
    mend = f"ubq checkpoint inspect {path}"
    try:
        found = inspect_checkpoint(path, config.pretrained.weights)
    except UbqError as error:
        yield Check(id="checkpoint.path", status="failed", figure=error.message, why=why, mend=error.mend or mend)
        return
    if found.problem:
        yield Check(id="checkpoint.path", status="failed", figure=found.problem, why=why, mend=mend)
        return
    described = found.to_dict()
    absent = [part for part in described["absent"] if not (decoders and "decoder" in part)]
    figure = _("{container}, {variant}, {total:.1f} M parameters, {weights} weights").format(
        container=found.container,
        variant=found.variant,
        total=described["parameters"]["total"] / 1e6,
        weights=found.weights_used,
    )
    if absent:
        figure += "; " + _("without {parts}").format(parts=", ".join(absent))
    yield Check(
        id="checkpoint.path",
        status="failed" if "unet" in absent else "warning" if absent else "ok",
        figure=figure,
        why=why,
        mend=mend if absent else "",
    )
    wanted = found.suggested_normalization
    fits = config.data.normalization in ("auto", wanted) or not isinstance(config.data.normalization, str)
    yield Check(
        id="checkpoint.normalization",
        status="ok" if fits else "warning",
        figure=_("data.normalization is {given}, the checkpoint's code trains with {wanted}").format(
            given=config.data.normalization, wanted=wanted
        ),
        why=_("a model must be used with the ranges it was trained with"),
        mend="" if fits else f"--set data.normalization={wanted}",
        apply={} if fits else {"data.normalization": wanted},
    )


def machine_for(config: Config, run: Path | None) -> Iterator[Check]:
    """What the configuration asks of the machine: the checks a run starts with, and memory stage by stage.

    Of a run, only the stages that are not complete count.
    """
    from ubq.jobs import preflight
    from ubq.jobs.runner import pipeline
    from ubq.jobs.state import COMPLETED, read_state

    paths = RunPaths(run or Path(config.run.dir) / config.run.name)
    state = read_state(paths.state)
    done = {s.name for s in state.stages if s.state == COMPLETED} if state else set()
    todo = [stage for stage in pipeline() if stage.wanted(config) and stage.name not in done]
    checks = preflight.check_run(config, paths, todo)
    if any(check.id == "memory" for check in checks):
        yield from _memory_of_stages(config, run, {stage.name for stage in todo})
    for check in checks:
        if check.id != "memory":
            yield replace(check, id=f"preflight.{check.id}")


def _memory_of_stages(config: Config, run: Path | None, todo: set[str]) -> Iterator[Check]:
    from ubq.jobs import preflight
    from ubq.stages.memory import memory_of

    for stage, needed in memory_of(config).items():
        training = training_of(config, stage)
        if stage not in todo or training is None:
            continue
        for check in preflight.check_memory(config, {stage: needed}):
            mend = out_of_memory(config, stage)
            size = _("{figure}; batch_size {batch} in {parts} parts").format(
                figure=check.figure, batch=training.batch_size, parts=training.accumulate
            )
            command = mend.command(run) if check.status != "ok" else ""
            yield replace(check, id=f"memory.{stage}", figure=size, mend=command)


def run_state(config: Config, run: Path) -> Iterator[Check]:
    """How the run ended, if it did, and what a kill from outside most likely was."""
    from ubq.jobs.state import COMPLETED, CRASHED, FAILED
    from ubq.jobs.status import snapshot

    seen = snapshot(run)
    state = seen.state
    why = _("a run that stopped goes on from its last checkpoint")
    resume = state.next_command or f"ubq resume {run.name}"
    if seen.problem:
        yield Check(id="run.state", status="failed", figure=seen.problem, why=why, mend=resume)
    elif seen.shown == CRASHED:
        yield _killed(config, run, seen, resume)
    elif state.state == FAILED:
        error = state.error or {}
        stage = error.get("stage", "")
        figure = _("failed in {stage}: {message}").format(stage=stage or "-", message=error.get("message", ""))
        if error.get("cause") == "memory":
            mend = out_of_memory(config, stage, _parts_tried(seen.state.stage(stage)))
            yield Check(
                id="run.memory",
                status="failed",
                figure=figure,
                why=mend.cause,
                mend=mend.command(run),
                apply=mend.apply,
            )
        else:
            mend_text = "; ".join(t for t in (error.get("mend", ""), resume) if t)
            yield Check(id="run.state", status="failed", figure=figure, why=why, mend=mend_text)
    else:
        done = sum(s.state == COMPLETED for s in state.stages)
        figure = _("{state}: {done} of {total} stages complete")
        yield Check(
            id="run.state",
            status="ok",
            figure=figure.format(state=seen.shown, done=done, total=len(state.stages)),
            why=why,
            mend="" if seen.running or state.state == COMPLETED else resume,
        )
    for line in _memory_events(run):
        yield Check(
            id="run.parts",
            status="warning",
            figure=line,
            why=_("each failed allocation costs a step; the result is the same"),
            mend=_("nothing to do; --set STAGE.accumulate=N starts with smaller parts"),
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
            mend=resume,
        )
    mend = out_of_memory(config, name, _parts_tried(stage))
    return Check(
        id="run.memory",
        status="failed",
        figure=_("the process was killed in {where} and could not say why").format(where=where),
        why=mend.cause,
        mend=mend.command(run),
        apply=mend.apply,
    )


def _parts_tried(stage: StageState | None) -> int:
    """Parts of a batch that a stage has come to by itself."""
    notes = stage.notes if stage else []
    return max((n["accumulate"] for n in notes if isinstance(n.get("accumulate"), int)), default=0)


def _memory_events(run: Path) -> Iterator[str]:
    """Failed allocations that the run got over by itself, the last one of each stage."""
    last: dict[str, dict[str, Any]] = {}
    try:
        with open(RunPaths(run).events, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if '"out_of_memory"' in line:
                    try:
                        row = json.loads(line)
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
    from ubq.checkpoints.store import CheckpointStore
    from ubq.jobs.state import COMPLETED, PENDING
    from ubq.jobs.status import snapshot

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
            figure="; ".join([*damaged, _("goes on from step {step}").format(step=step)]),
            why=_("a damaged checkpoint is passed over for the one before"),
            mend=f"ubq resume {run.name}",
        )


def quantisation(config: Config, run: Path | None) -> Iterator[Check]:
    """How much of the generator is int8: planned, and where it has run, counted."""
    why = _("what stays in float costs size and speed on the Pi")
    mend = mend_of("quantised_modules", config)
    off = bool(mend.apply)
    yield Check(
        id="quantisation.plan",
        status="warning" if off else "ok",
        figure=_("switched off or kept in float: {keys}").format(keys=", ".join(mend.apply))
        if off
        else _("every layer, scheme {scheme}").format(scheme=config.quant.scheme),
        why=why,
        mend=mend.command(run) if off else "",
        apply=mend.apply,
    )
    if run is None:
        return
    for stage in ("qat-decoders", "qat-diffusion"):
        found = _read_json(RunPaths(run).checkpoints(stage) / "quantization_analysis.json")
        counts = found.get("model") if found else None
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
            mend=f"ubq quant analyze {run.name}" if low else "",
        )


def marks(config: Config, run: Path) -> Iterator[Check]:
    """The success marks of the run's ``report.json``, each with what mends it."""
    path = RunPaths(run).exported / "report.json"
    if not path.is_file():
        return
    report = _read_json(path)
    found = {m["id"]: m for m in report.get("marks", []) if isinstance(m, dict) and "id" in m} if report else {}
    if not found:
        again = f"ubq run --config {run / 'config.toml'} --force verify"
        yield Check(
            id="marks.report", status="failed", figure=_("{path} is not a report").format(path=path), mend=again
        )
    for mark_id in [*MARKS, *(m for m in found if m not in MARKS)]:
        if mark_id not in found:
            continue
        mark = found[mark_id]
        how = str(mark.get("how", ""))
        value, threshold = _figure(mark.get("value")), _figure(mark.get("threshold"))
        passed = mark.get("passed") is True
        mend_text, apply, cause = "", dict[str, object](), ""
        if not passed:
            mend = mend_of(mark_id, config, how)
            mend_text, apply, cause = mend.command(run), dict(mend.apply), mend.cause
        why = MARKS[mark_id][0] if mark_id in MARKS else ""
        yield Check(
            id=f"marks.{mark_id}",
            status="ok" if passed else "failed",
            figure=_("{value}, wanted {threshold}; {how}").format(value=value, threshold=threshold, how=how),
            why="; ".join(t for t in (why, cause) if t),
            mend=mend_text,
            apply=apply,
        )


def _figure(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_figure(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is none to read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
