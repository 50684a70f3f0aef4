"""The report page's pictures: SVG whose lines and letters take the page's colours and font.

Matplotlib draws them once, in colours that stand for the page's; the page decides what they are, by day and by night.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ubq.acquisition import CELL, TIME_STEP
from ubq.i18n import gettext as _
from ubq.states import phase_word
from ubq.verify.evidence import EVERY, Evidence
from ubq.verify.page.facts import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, LINE, FIRST, SECOND, BAND = (f"#0{n}0{n}0{n}" for n in range(1, 6))
_VARIABLES = {INK: "--muted", LINE: "--line", FIRST: "--blue", SECOND: "--orange", BAND: "--band"}
"""Colours drawn with -> the page's variables."""
POINTS = 400
"""Points of a curve that are drawn at most; more are averaged."""
MAPS, GATHERS = "viridis", "seismic"


class Pictures:
    """Draws one page's pictures; each has names of its own inside, so that all can stand in one document."""

    def __init__(self) -> None:
        self._count = 0

    @contextmanager
    def _axes(self, width: float, height: float, left: float = 0.42, bottom: float = 0.34) -> Iterator[_Drawing]:
        """A figure with one pair of axes; sizes and margins in inches."""
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self._count += 1
        settings: Any = {
            "svg.fonttype": "none", "svg.hashsalt": "ubq", "font.size": 7.5, "axes.linewidth": 0.6,
            "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": LINE,
            "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5,
            "axes.labelpad": 2.0, "xtick.major.pad": 2.0, "ytick.major.pad": 2.0, "grid.color": LINE,
        }  # fmt: skip
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Chinese letters, which the page's font has
            figure = Figure(figsize=(width, height))
            FigureCanvasSVG(figure)
            margins = (left / width, bottom / height, 1 - (left + 0.12) / width, 1 - (bottom + 0.08) / height)
            drawing = _Drawing(figure.add_axes(margins))
            drawing.axes.set_facecolor("none")
            yield drawing
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True)
        drawing.svg = _for_page(buffer.getvalue(), f"p{self._count}-", drawing.label)

    def map(self, velocity: np.ndarray, limits: tuple[float, float], label: str, ticks: bool = True) -> str:
        """A velocity map (H, W), m/s."""
        height, width = (n * CELL / 1000 for n in velocity.shape)
        with self._panel(label, ticks) as drawing:
            drawing.axes.imshow(
                velocity.astype(np.float32), cmap=MAPS, vmin=limits[0], vmax=limits[1], aspect="auto",
                extent=(0, width, height, 0), interpolation="none",
            )  # fmt: skip
            _units(drawing.axes, "km", "km", ticks)
        return drawing.svg

    def gather(self, levels: np.ndarray, receivers_km: float, label: str) -> str:
        """A shot gather (T, R) in the 8-bit levels of ``report.npz``."""
        with self._panel(label) as drawing:
            drawing.axes.imshow(
                levels, cmap=GATHERS, vmin=-127, vmax=127, aspect="auto", interpolation="none",
                extent=(0, receivers_km, len(levels) * EVERY * TIME_STEP, 0),
            )  # fmt: skip
            _units(drawing.axes, "km", "s")
        return drawing.svg

    @contextmanager
    def _panel(self, label: str, ticks: bool = True) -> Iterator[_Drawing]:
        margins = (0.36, 0.3) if ticks else (0.03, 0.03)
        with self._axes(1.75 if ticks else 1.3, 1.55 if ticks else 1.3, *margins) as drawing:
            drawing.label = label
            yield drawing

    def scale(self, name: str, limits: tuple[float, float], unit: str) -> str:
        """A colour scale lying on its side."""
        with self._axes(2.6, 0.36, 0.12, 0.22) as drawing:
            drawing.label = unit
            drawing.axes.imshow(
                np.linspace(0, 1, 128)[None], cmap=name, aspect="auto", extent=(*limits, 0, 1), interpolation="none"
            )
            drawing.axes.set_yticks([])
            drawing.axes.set_xticks([limits[0], sum(limits) / 2, limits[1]])
            low, middle, high = drawing.axes.get_xticks()
            drawing.axes.set_xticklabels([f"{low:g}", f"{middle:g} {unit}", f"{high:g}"])
        return drawing.svg

    def losses(self, curve: Curve) -> str:
        """Training and validation loss over the steps, with phases as bands and resumes as lines."""
        with self._axes(4.3, 1.9) as drawing:
            axes = drawing.axes
            drawing.label = _("losses of {stage}").format(stage=curve.stage)
            last = max(step for step, _value in (*curve.loss, *curve.validation))
            last = max(last, curve.steps)
            for i, (name, start) in enumerate(curve.phases):
                end = curve.phases[i + 1][1] if i + 1 < len(curve.phases) else last
                if i % 2 == 0:
                    axes.axvspan(start, end, color=BAND, linewidth=0)
                if end - start > 0.09 * last:
                    x, top = (start + end) / 2, axes.get_xaxis_transform()
                    axes.text(
                        x, 0.97, phase_word(name, curve.stage), transform=top, ha="center", va="top", fontsize=6.5
                    )
            for points, colour, style in ((curve.loss, FIRST, "-"), (curve.validation, SECOND, "-o")):
                if points:
                    steps, values = thinned(points).T
                    axes.plot(steps, values, style, color=colour, linewidth=1.0, markersize=2.4)
            for step in curve.resumes:
                axes.axvline(step, color=INK, linewidth=0.8, linestyle=(0, (3, 2)))
            positive = all(value > 0 for _step, value in (*curve.loss, *curve.validation))
            _losses_axis(axes, positive)
            axes.set_xlim(0, last)
        return drawing.svg

    def shares(self, edges: np.ndarray, series: Sequence[np.ndarray], unit: str, label: str) -> str:
        """Histograms as steps over common edges; the first is filled."""
        with self._axes(4.3, 1.9) as drawing:
            drawing.label = label
            for values, colour, alpha in zip(series, (SECOND, FIRST), (0.25, 0.0), strict=False):
                drawing.axes.stairs(100 * values, edges, color=colour, linewidth=1.1)
                if alpha:
                    drawing.axes.stairs(100 * values, edges, color=colour, alpha=alpha, fill=True)
            drawing.axes.set_ylim(0, None)
            drawing.axes.set_xlim(edges[0], edges[-1])
            _units(drawing.axes, unit, "%")
        return drawing.svg

    def depths(self, held_out: np.ndarray, generated: np.ndarray, label: str) -> str:
        """Quantiles (3, H) of the velocity in each row: the middle one as a line, the outer two as a band."""
        with self._axes(4.3, 2.3) as drawing:
            drawing.label = label
            depth = (np.arange(held_out.shape[1]) + 0.5) * CELL / 1000
            drawing.axes.fill_betweenx(depth, held_out[0], held_out[2], color=SECOND, alpha=0.2, linewidth=0)
            drawing.axes.plot(held_out[1], depth, color=SECOND, linewidth=1.3)
            for values, style in zip(generated, ("--", "-", "--"), strict=True):
                drawing.axes.plot(values, depth, style, color=FIRST, linewidth=1.0 if style == "--" else 1.3)
            drawing.axes.set_ylim(depth[-1], 0)
            _units(drawing.axes, "m/s", "km")
        return drawing.svg

    def variograms(self, series: Mapping[str, Mapping[str, Sequence[float]]], label: str) -> str:
        """Half the mean squared difference over the distance, along x and along depth (dashed)."""
        with self._axes(4.3, 2.3) as drawing:
            drawing.label = label
            for name, colour in (("held_out", SECOND), ("generated", FIRST)):
                for axis, style in (("x", "-"), ("depth", "--")):
                    values = np.asarray(series[name][axis]) / 1e6
                    lags = np.arange(1, len(values) + 1) * CELL
                    drawing.axes.plot(lags, values, style, color=colour, linewidth=1.2)
            drawing.axes.set_ylim(0, None)
            drawing.axes.set_xlim(0, None)
            _units(drawing.axes, "m", "(km/s)²")
        return drawing.svg

    def distances(self, evidence: Evidence, label: str) -> str:
        """How far maps are from the training map nearest to each, generated and held out."""
        generated, held_out = evidence["distance_generated"], evidence["distance_held_out"]
        edges = np.linspace(0, max(generated.max(), held_out.max()) * 1.02, 28)
        counts = [np.histogram(x, edges)[0] / len(x) for x in (held_out, generated)]
        return self.shares(edges, counts, "m/s", label)


class _Drawing:
    """One figure while it is drawn, and afterwards its SVG."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.label = ""
        self.svg = ""


def thinned(points: Sequence[tuple[int, float]]) -> np.ndarray:
    """At most ``POINTS`` points (N, 2): neighbours become their mean."""
    rows = np.array(points, dtype=np.float64)
    if len(rows) <= POINTS:
        return rows
    return np.array([part.mean(0) for part in np.array_split(rows, POINTS)])


def _losses_axis(axes: Any, logarithmic: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low, high = axes.get_ylim()
    if logarithmic:
        axes.set_yscale("log")
        low, high = (float(f([v for line in axes.lines for v in line.get_ydata() if v > 0])) for f in (min, max))
        axes.set_ylim(low / 1.15, high * (high / low) ** 0.14 * 1.05)  # room for the phases' names
        wide = high / low > 30
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        if not wide and high / low < 2.2:
            axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:.3g}"))
    axes.grid(axis="y", linewidth=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _units(axes: Any, across: str, down: str, ticks: bool = True) -> None:
    """Few ticks, with what they count."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if not ticks:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    panel = bool(axes.images)
    axes.xaxis.set_major_locator(MaxNLocator(4 if panel else 6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:.4g}"))
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    if not panel:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)


def _for_page(svg: str, prefix: str, label: str) -> str:
    """One figure's SVG as a part of the page: its colours and font, names that no other picture has, no size."""
    from html import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{prefix}", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"image-rendering:[^;\"]*;?", "", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    head = re.compile(r'<svg\b[^>]*?viewBox="([^"]*)"[^>]*>', re.DOTALL)
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        rf'viewBox="\1" role="img" aria-label="{escape(label, quote=True)}">'
    )
    return re.sub(r">\s+<", "><", head.sub(opening, svg, count=1).strip())
