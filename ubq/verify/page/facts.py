"""What the report page says, read from a run's files; each may be missing, torn or of an older ubq.

Light: neither torch nor numpy.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ubq.config.runs import run_command
from ubq.durable import read_object, read_rows
from ubq.errors import UbqError
from ubq.figures import duration
from ubq.i18n import gettext as _
from ubq.model.parts import DEPLOYED
from ubq.verify.report import FigureRow, Report, figure_rows, meaning, title

COSTLIEST = 5
"""Layers of each part that are named beside the table of all."""
HASHED_BELOW = 64 << 20
"""Bytes up to which a file that no manifest lists is hashed for the page."""


@dataclass(frozen=True)
class RunFiles:
    """Where a run keeps what the page says.

    Attributes:
        root: the run's folder.
        analyses: ``quantization_analysis.json`` of the stages, the exported file's last.
    """

    root: Path
    config: Path
    sources: Path
    events: Path
    metrics: Path
    exported: Path
    analyses: tuple[Path, ...]


@dataclass(frozen=True)
class Verdict:
    """The first line of the page.

    Attributes:
        kind: ``passed``, ``failed``, ``stopped`` or ``running``.
        text: in a few words.
        why: what went wrong.
        fix: what a person can do about it.
    """

    kind: str
    text: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True)
class MarkRow:
    """A success mark as shown."""

    id: str
    title: str
    meaning: str
    passed: bool
    how: str
    figures: tuple[FigureRow, ...]


@dataclass
class Curve:
    """What a training stage wrote while it trained."""

    stage: str
    steps: int
    loss: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    phases: list[tuple[str, int]] = field(default_factory=list)
    """Name and first step of each."""
    resumes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class LayerRow:
    """One layer with a weight; ``cost`` is the error of its part when it alone is quantised."""

    name: str
    part: str
    type: str
    parameters: int
    macs: int
    quantised: bool
    reason: str
    cost: float | None
    sqnr: float | None
    share: float
    """Of the largest cost."""
    costliest: bool
    """Whether it is one of the ``COSTLIEST`` of its part."""


@dataclass(frozen=True)
class KeyRow:
    """One configuration key."""

    key: str
    value: str
    source: str
    chosen: bool
    """Whether someone set it, for this run or in a file of theirs: neither default nor preset."""


@dataclass(frozen=True)
class FileRow:
    """One file of the run."""

    path: str
    bytes: int | None
    digest: str
    sampled: bool = False
    """Whether the digest is of blocks spread over the file, not of all of it."""


def read_report(path: Path) -> Report | None:
    """The marks, where there are any."""
    try:
        return Report.read(path)
    except UbqError:
        return None


def verdict(state: Mapping[str, Any], report: Report | None) -> Verdict:
    """How the run stands, from its state and its marks.

    Args:
        state: as ``ubq status --json`` has it.
        report: of this run's export; None: not measured, or of an earlier export.
    """
    shown = state.get("state")
    error = state.get("error") or {}
    stages = state.get("stages", [])
    done = sum(s["state"] == "completed" for s in stages)
    if report is not None and (shown == "completed" or done == len(stages)):
        failed = sum(not m.passed for m in report.marks)
        if report.passed:
            return Verdict("passed", _("All {count} success marks passed").format(count=len(report.marks)))
        text = _("{failed} of {count} success marks failed").format(failed=failed, count=len(report.marks))
        return Verdict("failed", text, "; ".join(title(m.id) for m in report.marks if not m.passed))
    current = next((s for s in stages if s["state"] != "completed"), None)
    where = current["name"] if current else "-"
    so_far = _("{done} of {total} stages complete").format(done=done, total=len(stages))
    if shown == "failed":
        where = error.get("stage") or "preflight"  # no stage had begun
        text = _("Failed in {stage}").format(stage=where)
        return Verdict("failed", text, str(error.get("message", "")), str(error.get("fix", "")))
    if shown == "crashed":
        return Verdict("failed", _("Crashed in {stage}").format(stage=where), so_far)
    if shown == "running":
        return Verdict("running", _("Running: {stage}").format(stage=where), so_far)
    if shown == "completed":
        return Verdict("stopped", _("Complete, without success marks"), so_far)
    return Verdict("stopped", _("Stopped in {stage}").format(stage=where), so_far)


def mark_rows(report: Report) -> list[MarkRow]:
    """The marks in their order."""
    return [MarkRow(m.id, title(m.id), meaning(m.id), m.passed, m.how, tuple(figure_rows(m))) for m in report.marks]


def curves(state: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]):  # type: ignore[no-untyped-def]
    """The loss curves of every stage that wrote any, in the order of the stages."""
    curve_of = {s["name"]: Curve(s["name"], s.get("steps") or 0) for s in state.get("stages", [])}
    for row in rows:
        curve, step = curve_of.get(str(row.get("stage"))), row.get("step")
        if curve is None or not isinstance(step, int):
            continue
        for key, points in (("loss", curve.loss), ("val_loss", curve.validation)):
            value = row.get(key)
            if isinstance(value, int | float) and math.isfinite(value):
                points.append((step, float(value)))
    for event in events:
        curve, step = curve_of.get(str(event.get("stage"))), event.get("step")
        if curve is None or not isinstance(step, int):
            continue
        kind = event.get("event")
        if kind == "stage_started":  # what an earlier generation did is gone
            curve.phases, curve.resumes = [], []
        elif kind == "stage_resumed":
            curve.resumes.append(step)
            curve.phases = [p for p in curve.phases if p[1] <= step]
        elif kind == "phase" and str(event.get("phase")) not in [name for name, _step in curve.phases]:
            curve.phases.append((str(event["phase"]), step))
    return [c for c in curve_of.values() if c.loss or c.validation]


def layer_rows(analyses: Sequence[Mapping[str, Any]]) -> list[LayerRow]:
    """The layers with a weight, part by part, the costliest first; what was measured last counts."""
    layers: dict[str, Mapping[str, Any]] = {}
    costs: dict[str, Mapping[str, Any]] = {}
    for document in analyses:
        weighted = {x["name"]: x for x in document.get("layers", []) if x.get("weighted")}
        # the file's own graph says which layers there are; before, each stage knows what it quantised
        layers = weighted if document.get("exported") else layers | weighted
        costs |= {x["name"]: x for x in document.get("sensitivity", [])}

    def cost_of(name: str) -> float:
        return float(costs.get(name, {}).get("alone") or 0.0)

    highest = max(map(cost_of, layers), default=0.0) or 1.0
    rows: list[LayerRow] = []
    for part, names in DEPLOYED.items():
        part_layers = sorted((n for n in layers if n.partition(".")[0] in names), key=cost_of, reverse=True)
        for rank, name in enumerate(part_layers):
            layer, cost = layers[name], costs.get(name, {})
            rows.append(
                LayerRow(
                    name=name,
                    part=part,
                    type=layer["type"],
                    parameters=layer["parameters"],
                    macs=layer["macs"],
                    quantised=layer["quantised"],
                    reason=layer.get("reason", ""),
                    cost=cost.get("alone"),
                    sqnr=cost.get("sqnr_db"),
                    share=cost_of(name) / highest,
                    costliest=rank < COSTLIEST and cost_of(name) > 0,
                )
            )
    return rows


def totals(analyses: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, int]], bool]:
    """Quantised and total, by weight layers, parameters and so on; and whether read off the exported file."""
    for document in reversed(analyses):
        for key in ("exported", "model"):
            if document.get(key):
                return document[key], key == "exported"
    return {}, False


def key_rows(config: Path, sources: Mapping[str, str]) -> list[KeyRow]:
    """Every key of the frozen configuration, with where its value came from.

    Args:
        config: ``config.toml``.
        sources: ``sources.json``; where it says nothing, the preset tells what was set for the run.
    """
    import tomllib

    from ubq.config.keys import toml_value

    try:
        values = dict(_leaves(tomllib.loads(config.read_text(encoding="utf-8"))))
    except (OSError, ValueError):
        return []
    if not values.keys() <= sources.keys():
        sources = {**_compared_with_preset(values), **sources}
    rows = []
    for key, value in values.items():
        source = sources.get(key, "")
        chosen = bool(source) and source != "default" and not source.startswith("preset ")
        rows.append(KeyRow(key, toml_value(value), source, chosen))
    return rows


def _compared_with_preset(values: Mapping[str, Any]) -> dict[str, str]:
    from ubq.config.load import load_config
    from ubq.config.rendering import values_of

    preset = values.get("extends")
    try:
        loaded = load_config(preset if isinstance(preset, str) else None, isolated=True)
    except UbqError:
        return {}
    expected = {".".join(path): value for path, value in values_of(loaded.config).items()}
    set_here = "set for this run"
    return {
        key: loaded.provenance.get(key, "default") if value == expected.get(key) else set_here
        for key, value in values.items()
    }


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def file_rows(files: RunFiles, state: Mapping[str, Any], skip: Sequence[str] = ()) -> list[FileRow]:
    """The exported files, then what else the run made; digests as the manifest and the fingerprints have them.

    Args:
        files: of the run.
        state: as ``ubq status --json`` has it; with the stages' fingerprints, where they are.
        skip: names in ``exported_models`` that are left out.
    """
    listed = {f["name"]: f for f in read_object(files.exported / "manifest.json").get("files", [])}
    rows: dict[str, FileRow] = {}
    for path in sorted(p for p in files.exported.glob("*") if p.is_file() and p.name not in skip):
        bytes_, known = path.stat().st_size, listed.get(path.name, {})
        digest = known.get("sha256", "") if known.get("bytes") == bytes_ else ""
        if not digest and bytes_ < HASHED_BELOW:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(files.root).as_posix()
        rows[name] = FileRow(name, bytes_, digest)
    digests = _fingerprinted(state)
    for artifact in (a for s in state.get("stages", []) for a in s.get("artifacts", [])):
        name = str(artifact.get("path"))
        digest, sampled = digests.get(name, ("", False))
        if name not in rows and Path(name).name not in skip:
            rows[name] = FileRow(name, artifact.get("bytes"), digest, sampled)
    return list(rows.values())


def _fingerprinted(state: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Digests that stages took of what they read: ``from STAGE: PATH`` -> ``N bytes, sha256 HEX``."""
    digests = {}
    for stage in state.get("stages", []):
        for key, value in (stage.get("fingerprint") or {}).items():
            if key.startswith("from ") and isinstance(value, str) and " " in value:
                kind, digest = value.split()[-2:]
                digests[key.partition(": ")[2]] = digest, kind != "sha256"
    return digests


def events_of(path: Path) -> list[dict[str, Any]]:
    """What happened, in order."""
    return list(read_rows(path)) if path.is_file() else []


def commands(files: RunFiles, state: Mapping[str, Any], report: Report | None) -> list[tuple[str, str]]:
    """What to type next, with what it does."""

    def ubq(verb: str, *more: str) -> str:
        return run_command(verb, files.root, *more)

    lines = []
    if state.get("next_command"):
        lines.append((str(state["next_command"]), _("go on with the run")))
    if state.get("error") or (report is not None and not report.passed):
        lines.append((ubq("doctor"), _("what is wrong, and what fixes it")))
    if report is not None:
        lines += [
            (ubq("sample", "--count", "100", "--out", "pairs"), _("draw pairs into OpenFWI's layout")),
            (ubq("export", "--bundle"), _("everything for a Raspberry Pi in one folder")),
            (ubq("deploy pi@raspberrypi.local:ubq", "--smoke"), _("copy it onto the Pi and draw a pair there")),
            (ubq("bench sample"), _("how fast it is on this machine")),
        ]
    lines.append((ubq("report"), _("make this page again")))
    return lines


def resumes_of(events: Sequence[Mapping[str, Any]], stage: str) -> int:
    """How often a stage went on from a checkpoint."""
    return sum(e.get("event") == "stage_resumed" and e.get("stage") == stage for e in events)


def total_time(state: Mapping[str, Any]) -> str:
    """Time spent in all stages."""
    return duration(sum(s.get("seconds") or 0.0 for s in state.get("stages", [])))
