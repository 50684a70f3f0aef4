"""The text files beside an exported model: ``<name>_info.txt`` and ``deployment_guide.md``.

Light: imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ubq.export.runtimes import PI_TORCH, TORCHSCRIPT
from ubq.i18n import gettext as _
from ubq.runtime.facts import Facts

GUIDE = "deployment_guide.md"


def sample_script(facts: Facts) -> str:
    """A program of a few lines that generates one pair on a Pi."""
    call = "model.simulate(1)" if facts.acquisition else "model(1)"
    return f"""\
import torch

torch.backends.quantized.engine = "qnnpack"  # before torch.jit.load
model = torch.jit.load("{facts.name}.pt")
torch.manual_seed(0)
with torch.no_grad():
    velocity, seismic = {call}  # {_shape(facts.velocity_shape)} m/s, {_shape(facts.seismic_shape)}
print(velocity.shape, seismic.shape)
torch.save({{"velocity": velocity, "seismic": seismic}}, "pair.pt")
"""


def info_text(
    facts: Facts, file_bytes: int, file_sha256: str, weights_sha256: str | None, other_files: Sequence[str] = ()
) -> str:
    """``<name>_info.txt``: the facts in a few lines; ``other_files`` names the files of other formats."""
    model, ranges = facts.model, facts.normalization
    lines = [
        (_("file"), f"{facts.name}.pt"),
        (_("size"), f"{file_bytes / 1e6:.1f} MB"),
        (_("weights"), "int8" if facts.quantised else _("float32, not quantised")),
        (_("made for engine"), facts.backend),
        (_("imitates"), facts.family),
        (_("sampler"), _("{solver}, {steps} steps").format(solver=facts.solver, steps=facts.steps)),
        (_("steps offered"), counts_text(facts)),
        (_("U-Net"), _unet_text(model)),
        (_("velocity"), f"(B, {inner(facts.velocity_shape)}) m/s"),
        (_("velocity range"), f"{ranges['velocity_min']:g} - {ranges['velocity_max']:g} m/s"),
        (_("seismic"), f"(B, {inner(facts.seismic_shape)})"),
        (_("gathers"), _gathers_made(facts)),
        (_("amplitude range"), f"{ranges['amplitude_min']:g} - {ranges['amplitude_max']:g}"),
        (_("written by"), ", ".join(f"{name} {version}" for name, version in facts.versions.items())),
        ("sha256", file_sha256),
    ]
    if weights_sha256:
        lines.append(("weights_sha256", weights_sha256))
    if other_files:
        lines.append((_("the same weights for other runtimes"), ", ".join(other_files)))
    calls = [
        "forward(batch_size=1, steps=0) -> (velocity, seismic)",
        "sample(x_T (B, 1, L), step_noise (steps-1, B, 1, L), steps) -> latent (B, 1, L)",
        "decode(latent (B, 1, L)) -> (velocity, seismic)",
    ]
    if facts.acquisition:
        calls += [
            "simulate(batch_size=1, steps=0) -> (velocity, seismic by the wave equation)",
            "gathers(velocity) -> seismic by the wave equation",
        ]
    table = "".join(f"{name}: {value}\n" for name, value in lines)
    return table + "\n" + _("calls") + ":\n" + "".join(f"  {call}\n" for call in calls)


def guide_text(facts: Facts, file_bytes: int, other_files: Sequence[str] = ()) -> str:
    """``deployment_guide.md``: from the training box to a generated pair on a Raspberry Pi 4 or 5.

    ``other_files`` names the files of other formats.
    """
    file = f"{facts.name}.pt"
    need = TORCHSCRIPT.memory_mb(file_bytes)
    parts = [
        "# " + _("{name} on a Raspberry Pi").format(name=facts.name),
        _(
            "`{file}` ({size:.0f} MB) generates pairs of a velocity map and its seismic shot gathers in the manner of"
            " {family}. It needs PyTorch and nothing else; ubq is not needed on the Pi."
        ).format(file=file, size=file_bytes / 1e6, family=facts.family),
        "## " + _("1. Set up the Pi (once)"),
        _("A Raspberry Pi 4 or 5 with a 64-bit system and Python 3.11 to 3.13."),
        code(
            "sh",
            "python3 -m venv ~/ubq-pi",
            f"~/ubq-pi/bin/pip install {' '.join(TORCHSCRIPT.packages)}",
        ),
        _(
            "Keep to this version. PyTorch 2.10 stops with `Illegal instruction` on a Pi 4, and from 2.11 on the"
            " default wheels are CUDA builds that a Pi cannot use."
        ),
        "## " + _("2. Copy the model"),
        _("From this folder; write your own user and host."),
        code("sh", "ssh pi@raspberrypi.local mkdir -p ubq", f"scp {file} manifest.json pi@raspberrypi.local:ubq/"),
        "## " + _("3. Generate"),
        _("Save this as `generate.py` beside the model and run it with `~/ubq-pi/bin/python generate.py`."),
        code("python", sample_script(facts).rstrip()),
        _(
            "The engine must be set before the file is loaded: on a Pi PyTorch starts with another one, which takes"
            " several times as many instructions, and on an x86 processor without VNNI with one that clips sums and"
            " draws other pairs."
        ),
        "\n".join(f"- {line}" for line in _hints(facts)),
        *([gathers_text("`model.simulate(1)`", "`model(1)`")] if facts.acquisition else []),
        "## " + _("4. Memory and time"),
        _("Loading the file and the first call take about {need} MB at their peak.").format(need=need)
        + " "
        + board_text(need),
        _("The first call is slower than the others. Close other programs, and cool the board: a hot Pi slows down."),
        "## " + _("5. If it does not work"),
        table(
            (_("what happens"), _("what fixes it")),
            (
                "`Illegal instruction`",
                _("another PyTorch than {version}: install this version").format(version=PI_TORCH),
            ),
            (
                "`Didn't find engine for operation quantized`",
                _('set `torch.backends.quantized.engine = "qnnpack"` before `torch.jit.load`'),
            ),
            (
                "`Killed`, `MemoryError`",
                _("too little memory: generate one pair at a time, or export a smaller preset"),
            ),
            (
                "`PytorchStreamReader failed`",
                _("the copy is damaged: compare `sha256sum {file}` with `manifest.json`").format(file=file),
            ),
            (
                "`steps=... is not offered`",
                _("use a step count of this file: {counts}").format(counts=counts_text(facts)),
            ),
        ),
    ]
    if f"{facts.name}.onnx" in other_files:
        parts.insert(
            2,
            _(
                "**On a Pi take ONNX Runtime**, which needs a third of the instructions and of the memory: the same"
                " weights lie in `{file}`. `ubq export {name} --bundle` packs what it needs, with a guide, and"
                " `ubq deploy pi@raspberrypi.local:ubq {name}` brings it there. The rest of this page is for PyTorch."
            ).format(file=f"{facts.name}.onnx", name=facts.name),
        )
    if not facts.quantised:
        parts.insert(2, _("**This file is the float reference. It is large and slow; deploy the int8 file instead.**"))
    return "\n\n".join(parts) + "\n"


def gathers_text(wave: str, decoder: str) -> str:
    """Which gather to use when; both arguments are calls or options."""
    return _(
        "A gather belongs to its map where it obeys the wave equation: {wave} models it so, and its error E is 0. Train"
        " and test inversions with these. {decoder} gives the seismic decoder's, which takes a fraction of the time and"
        " knows little more than the direct wave; its E stands in `report.json`, mark `physics`. Use it where the map"
        " alone matters."
    ).format(wave=wave, decoder=decoder)


def board_text(need_mb: int) -> str:
    """The smallest Raspberry Pi that has room for so much; the system takes its part of the memory, too."""
    board = next((gb for gb in (1, 2, 4, 8, 16) if need_mb < 0.7 * gb * 1000), None)
    if board is None:
        return _("No Raspberry Pi has room for that; export a smaller preset.")
    return _("A board with {gb} GB has room for it.").format(gb=board)


def _hints(facts: Facts) -> list[str]:
    if len(facts.step_counts) > 1:
        steps = _(
            "`model(1, steps)` trades time for quality; this file offers {counts} steps, {steps} unless told otherwise."
        ).format(counts=counts_text(facts), steps=facts.steps)
    else:
        steps = _("This file samples in {steps} steps.").format(steps=facts.steps)
    return [
        _("`model(8)` gives eight pairs in one call."),
        steps,
        range_hint(facts),
    ]


def range_hint(facts: Facts) -> str:
    """Units and range of what is generated."""
    return _(
        "The velocity is in m/s, {low:g} to {high:g} and a little beyond; the seismic is in OpenFWI's units."
    ).format(low=facts.normalization["velocity_min"], high=facts.normalization["velocity_max"])


def counts_text(facts: Facts) -> str:
    """Every step count that the file offers."""
    return ", ".join(map(str, facts.step_counts))


def _gathers_made(facts: Facts) -> str:
    """How the file's gathers are made."""
    decoder = _("by the seismic decoder (forward, decode)")
    if not facts.acquisition:
        return decoder
    return _(
        "{decoder}; by the constant-density acoustic wave equation (simulate, gathers): {cell:g} m cells, {step:g} ms,"
        " {frequency:g} Hz Ricker wavelet, sources at cells {sources}"
    ).format(
        decoder=decoder,
        cell=facts.acquisition["cell"],
        step=1000 * facts.acquisition["time_step"],
        frequency=facts.acquisition["peak_frequency"],
        sources=", ".join(map(str, facts.acquisition["sources"])),
    )


def _unet_text(model: Mapping[str, Any]) -> str:
    widths = ", ".join(map(str, model["dim_mults"]))
    base = model.get("unet_dim") or model["encoder_dim"]
    return _("{variant}; {base} x ({widths}), {steps} diffusion steps").format(
        variant=model["variant"], base=base, widths=widths, steps=model["diffusion_steps"]
    )


def inner(shape: tuple[int, ...]) -> str:
    """A shape without its brackets."""
    return ", ".join(map(str, shape))


def _shape(shape: tuple[int, ...]) -> str:
    return f"(1, {inner(shape)})"


def code(language: str, *lines: str) -> str:
    """A fenced block of Markdown."""
    return "\n".join([f"```{language}", *lines, "```"])


def table(header: tuple[str, ...], *rows: tuple[str, ...]) -> str:
    """A table of Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    lines.insert(1, "|---" * len(header) + "|")
    return "\n".join(lines)
