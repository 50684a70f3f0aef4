"""``report.html``: a run on one page that needs nothing beside it, whatever of the run there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ubq import __version__
from ubq.durable import read_object, read_rows, write_atomic
from ubq.figures import duration, size
from ubq.i18n import gettext as _
from ubq.i18n import language
from ubq.states import phase_word, state_word
from ubq.verify.evidence import Evidence, read_evidence
from ubq.verify.page import facts
from ubq.verify.page.facts import RunFiles
from ubq.verify.page.pictures import GATHERS, MAPS, Pictures
from ubq.verify.picture import DATA_SET, DECODER, DIFFERENCE, WAVE
from ubq.verify.report import EVIDENCE, PAGE, REPORT


def write_page(files: RunFiles, state: Mapping[str, Any], out: Path) -> None:
    """Write the page of a run.

    Args:
        files: where to read; what is not there is left out, and the page says so.
        state: the run's, as ``ubq status --json`` has it.
        out: HTML file to write; whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, render(files, state).encode())


def render(files: RunFiles, state: Mapping[str, Any]) -> str:
    """The page's HTML."""
    from jinja2 import ChainableUndefined, Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("ubq.verify.page", "."),
        autoescape=True,
        undefined=ChainableUndefined,  # what an older ubq did not write stays blank
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"_": _, "svg": Markup}
    environment.filters |= {"duration": duration, "size": size, "state": state_word, "signs": _signs}
    return environment.get_template(PAGE).render(**_content(files, state))


def _content(files: RunFiles, state: Mapping[str, Any]) -> dict[str, Any]:
    """The template's variables."""
    # of an earlier export, where the stage that makes it has to run again
    verified = any(s["name"] == "verify" and s["state"] == "completed" for s in state.get("stages", []))
    report = facts.read_report(files.exported / REPORT) if verified else None
    evidence = read_evidence(files.exported / EVIDENCE) if verified else {}
    manifest = read_object(files.exported / "manifest.json")
    analyses = [analysis for analysis in map(read_object, files.analyses) if analysis]
    events = facts.events_of(files.events)
    rows = read_rows(files.metrics) if files.metrics.is_file() else []
    keys = facts.key_rows(files.config, read_object(files.sources))
    totals, read_off_file = facts.totals(analyses)
    details: Mapping[str, Any] = report.details if report else {}
    pictures = Pictures()
    return {
        "language": language().replace("_", "-"),
        "version": __version__,
        "state": state,
        "verdict": facts.verdict(state, report),
        "marks": facts.mark_rows(report) if report else [],
        "details": details,
        "manifest": manifest,
        "facts": _headline(state, manifest, details, totals),
        "pairs": _pairs(pictures, evidence, manifest),
        "scales": _scales(pictures, evidence, manifest),
        "curves": _curves(pictures, state, rows, events),
        "totals": totals,
        "read_off_file": read_off_file,
        "layers": facts.layer_rows(analyses),
        "copies": _copies(pictures, evidence, manifest),
        "distributions": _distributions(pictures, evidence, details),
        "stages": _stages(state, events),
        "total_time": facts.total_time(state),
        "keys": keys,
        "chosen": [key for key in keys if key.chosen],
        "files": facts.file_rows(files, state, skip=(PAGE,)),
        "commands": facts.commands(files, state, report),
    }


def _signs(text: str) -> str:
    return text.replace("<=", "≤").replace(">=", "≥")


def _headline(
    state: Mapping[str, Any], manifest: Mapping[str, Any], details: Mapping[str, Any], totals: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Figures that stand below the verdict, with what they are."""
    figures = []
    model = next((f for f in manifest.get("files", []) if f["name"] == f"{manifest.get('name')}.pt"), None)
    if model:
        figures.append((size(model["bytes"]), _("TorchScript file")))
    if totals.get("macs", {}).get("total"):
        share = totals["macs"]["quantised"] / totals["macs"]["total"]
        figures.append((f"{100 * share:.3g} %", _("of the multiply-accumulates int8")))
    timing = details.get("timing", {})
    if timing.get("seconds_per_pair"):
        steps = _("a pair, {steps} sampling steps, {engine}").format(
            steps=details.get("solver_steps"), engine=details.get("engine")
        )
        figures.append((f"{1000 * timing['seconds_per_pair']:.3g} ms", steps))
    if timing.get("seconds_per_gather"):
        figures.append((f"{timing['seconds_per_gather']:.2g} s", _("its gathers by the wave equation")))
    if facts.total_time(state):
        figures.append((facts.total_time(state), _("in all stages")))
    return figures


def _limits(manifest: Mapping[str, Any]) -> tuple[float, float]:
    ranges = manifest.get("normalization", {})
    return ranges.get("velocity_min", 1500.0), ranges.get("velocity_max", 4500.0)


def _pairs(pictures: Pictures, evidence: Evidence, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each pair: its name and its panels (title, note, SVG)."""
    if "pair_velocity" not in evidence:
        return []
    from ubq.acquisition import CELL

    names = {"generated": _("generated"), "held out": _("held out")}
    titles = {
        DECODER: _("gather: decoder"),
        WAVE: _("gather: wave equation"),
        DIFFERENCE: _("difference"),
    }
    pairs: list[dict[str, Any]] = []
    for i, (name, velocity) in enumerate(zip(evidence["pair_name"], evidence["pair_velocity"], strict=True)):
        panels = [(_("velocity map"), "", pictures.map(velocity, _limits(manifest), _("velocity map")))]
        across = velocity.shape[-1] * CELL / 1000
        for j in (evidence["gather_pair"] == i).nonzero()[0]:
            title = titles.get(str(evidence["gather_title"][j]), str(evidence["gather_title"][j]))
            error = float(evidence["gather_error"][j])
            noted = _("data set's E = {error:.2g}") if evidence["gather_whose"][j] == DATA_SET else "E = {error:.2g}"
            picture = pictures.gather(evidence["gather"][j], across, title)
            panels.append((title, "" if np.isnan(error) else noted.format(error=error), picture))
        number = sum(pair["kind"] == name for pair in pairs) + 1
        shown = f"{names.get(str(name), str(name))} {number}"
        pairs.append({"kind": str(name), "name": shown, "panels": panels})
    return pairs


def _scales(pictures: Pictures, evidence: Evidence, manifest: Mapping[str, Any]) -> list[str]:
    if "pair_velocity" not in evidence:
        return []
    clip = float(f"{float(evidence['gather_scale']):.2g}")
    return [
        pictures.scale(MAPS, _limits(manifest), "m/s"),
        pictures.scale(GATHERS, (-clip, clip), _("amplitude")),
    ]


def _curves(
    pictures: Pictures, state: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], events: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    curves = []
    for curve in facts.curves(state, rows, events):
        last = curve.validation[-1][1] if curve.validation else None
        phases = [(phase_word(name, curve.stage), start) for name, start in curve.phases]
        picture = pictures.losses(curve)
        curves.append({"curve": curve, "picture": picture, "last_validation": last, "phases": phases})
    return curves


def _copies(pictures: Pictures, evidence: Evidence, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Generated maps with the training map nearest to each, and all distances."""
    if "copy_generated" not in evidence:
        return {}
    limits, pairs = _limits(manifest), []
    for generated, real, distance in zip(
        evidence["copy_generated"], evidence["copy_nearest"], evidence["copy_distance"], strict=True
    ):
        rms = float(distance) / generated.size**0.5
        maps = [pictures.map(m, limits, _("velocity map"), ticks=False) for m in (generated, real)]
        pairs.append({"maps": maps, "rms": rms})
    pixels = evidence["copy_generated"][0].size ** 0.5
    scaled = {name: evidence[name] / pixels for name in ("distance_generated", "distance_held_out")}
    return {
        "pairs": pairs,
        "picture": pictures.distances(scaled, _("distance to the nearest training map")),
        "least": float(scaled["distance_generated"].min()),
        "usual": float(scaled["distance_held_out"].min()),
    }


def _distributions(pictures: Pictures, evidence: Evidence, details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(title, SVG) of each distribution there is."""
    distributions = []
    if "velocity_edges" in evidence:
        series = [evidence["velocity_held_out"], evidence["velocity_generated"]]
        title = _("Velocities of all cells")
        distributions.append((title, pictures.shares(evidence["velocity_edges"], series, "m/s", title)))
        title = _("Velocity over depth: median, and the range of 80 % of the cells")
        distributions.append((title, pictures.depths(evidence["depth_held_out"], evidence["depth_generated"], title)))
    if "variogram" in details:
        title = _("Variograms: along x, and along depth (dashed)")
        distributions.append((title, pictures.variograms(details["variogram"], title)))
    return distributions


def _stages(state: Mapping[str, Any], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    longest = max((s.get("seconds") or 0.0 for s in state.get("stages", [])), default=0.0) or 1.0
    return [
        {
            **stage,
            "share": (stage.get("seconds") or 0.0) / longest,
            "resumes": facts.resumes_of(events, stage["name"]),
            "machine": stage.get("machine") or {},
            "peak_memory": stage.get("peak_memory"),
        }
        for stage in state.get("stages", [])
    ]
