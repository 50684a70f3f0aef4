"""``deployment_guide.md`` of a bundle: from the bundle to generated pairs on a Raspberry Pi 4 or 5.

Light: imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Mapping

from ubq.export.guide import board_text, code, counts_text, gathers_text, inner, range_hint, table
from ubq.export.runtimes import EXECUTORCH, ONNX, PI_TORCH, TORCHSCRIPT, Runtime
from ubq.i18n import gettext as _
from ubq.runtime.facts import Facts

VENV = "~/ubq-pi"
"""Virtual environment that the guide makes on the Pi, and that ``ubq deploy`` looks for."""


def bundle_guide_text(facts: Facts, sizes: Mapping[Runtime, int]) -> str:
    """The guide.

    Args:
        facts: of the model.
        sizes: runtimes that the bundle has files for, the one to prefer first, and the bytes of those files.
    """
    runtimes = list(sizes)
    first = runtimes[0]
    folder = f"{facts.name}-bundle"
    parts = [
        "# " + _("{name} on a Raspberry Pi").format(name=facts.name),
        _(
            "This model generates pairs of a velocity map {velocity} and its seismic shot gathers {seismic} in the"
            " manner of {family}, with {solver} in {steps} steps. ubq is not needed on the Pi."
        ).format(
            velocity=f"({inner(facts.velocity_shape)})",
            seismic=f"({inner(facts.seismic_shape)})",
            family=facts.family,
            solver=facts.solver,
            steps=facts.steps,
        ),
        "## " + _("1. Choose a file"),
        table(
            (_("runtime"), _("files"), "MB", _("memory, MB"), "Raspberry Pi 4", "Raspberry Pi 5"),
            *(
                (
                    r.title,
                    ", ".join(f"`{facts.name}{suffix}`" for suffix in r.suffixes),
                    f"{size / 1e6:.0f}",
                    _memory(r, size),
                    *_boards(r),
                )
                for r, size in sizes.items()
            ),
        ),
        _("All hold the same int8 weights. Without a reason for another one take {title}.").format(title=first.title)
        if len(runtimes) > 1
        else "",
        "## " + _("2. Set up the Pi (once)"),
        _("A 64-bit Raspberry Pi OS (`getconf LONG_BIT` says 64) with Python 3.11 to 3.13. On the Pi:"),
        "\n\n".join(_install(r, several=len(runtimes) > 1) for r in runtimes),
        _("Keep to these versions: they are the ones that were tried.") + " " + _torch_text(runtimes),
        _("For a picture beside the numbers: `{pip} install matplotlib`.").format(pip=f"{VENV}/bin/pip"),
        "## " + _("3. Copy the model"),
        _(
            "On the computer that has ubq; it checks the Pi first, goes on where an interrupted copy stopped, compares"
            " SHA-256 and, with `--smoke`, draws one pair there:"
        ),
        code("sh", f"ubq deploy pi@raspberrypi.local:ubq {folder} --smoke"),
        _("Or by hand:"),
        code(
            "sh",
            f"scp {folder}.tar.gz pi@raspberrypi.local:",
            f"ssh pi@raspberrypi.local 'mkdir -p ubq && tar xzf {folder}.tar.gz --strip-components=1 -C ubq'",
        ),
        "## " + _("4. Generate"),
        code("sh", "cd ~/ubq", f"{VENV}/bin/python generate.py --count 2"),
        "\n".join(f"- {line}" for line in _hints(facts, runtimes)),
        gathers_text("`generate.py`", "`--gathers decoder`") if facts.acquisition else "",
        "## " + _("5. Memory and time"),
        *(_budget(size, r) for r, size in sizes.items()),
        _("The first pair is slower than the others. Close other programs, and cool the board: a hot Pi slows down."),
        "## " + _("6. If it does not work"),
        table((_("what happens"), _("what fixes it")), *_trouble(facts, runtimes)),
    ]
    if TORCHSCRIPT in runtimes:
        at = parts.index("## " + _("5. Memory and time"))
        parts[at:at] = [
            "### " + _("TorchScript from a program of your own"),
            code("python", *_torchscript_lines(facts)),
            _(
                "The engine must be set before the file is loaded: on a Pi PyTorch starts with another one, which takes"
                " several times as many instructions. `generate.py` does so."
            ),
        ]
    if not facts.quantised:
        parts.insert(2, _("**This file is the float reference. It is large and slow; deploy the int8 file instead.**"))
    return "\n\n".join(part for part in parts if part) + "\n"


def _memory(runtime: Runtime, size: int) -> str:
    return _("about {need}").format(need=runtime.memory_mb(size))


def _boards(runtime: Runtime) -> tuple[str, str]:
    """What is known of a runtime on a Pi 4 and a Pi 5; from emulated ones, so nothing about seconds."""
    return {
        ONNX.name: (_("yes"), _("yes; uses its int8 dot product")),
        TORCHSCRIPT.name: (_("yes"), _("yes; without its int8 dot product")),
        EXECUTORCH.name: (_("no"), _("yes; uses its int8 dot product")),
    }[runtime.name]


def _install(runtime: Runtime, several: bool) -> str:
    lines = code("sh", f"python3 -m venv {VENV}", f"{VENV}/bin/pip install {runtime.pip_arguments}")
    if runtime is EXECUTORCH:
        lines += "\n\n" + _(
            "For a Raspberry Pi 5 alone: its PyTorch stops with `Illegal instruction` on a Pi 4. Without `--no-deps`"
            " pip finds no version."
        )
    return (f"{runtime.title} (`{runtime.requirements}`):\n\n" if several else "") + lines


def _torch_text(runtimes: list[Runtime]) -> str:
    if not any(package.startswith("torch==") for r in runtimes for package in r.packages):
        return ""
    return _(
        "PyTorch 2.10 stops with `Illegal instruction` on a Pi 4, and from 2.11 on the default wheels are CUDA builds"
        " that a Pi cannot use."
    )


def _hints(facts: Facts, runtimes: list[Runtime]) -> list[str]:
    hints = [
        _("It writes `pairs/velocity.npy` (N, {velocity}) and `pairs/seismic.npy` (N, {seismic}).").format(
            velocity=inner(facts.velocity_shape), seismic=inner(facts.seismic_shape)
        ),
        range_hint(facts),
        _("`--seed 7` gives other pairs, always the same ones for one seed."),
    ]
    if len(facts.step_counts) > 1:
        hints.append(
            _(
                "`--steps` trades time for quality; this model offers {counts} steps, {steps} unless told otherwise."
            ).format(counts=counts_text(facts), steps=facts.steps)
        )
    if len(runtimes) > 1:
        names = ", ".join(f"`{r.name}`" for r in runtimes)
        hints.append(
            _("`--runtime` chooses one of {names}; without it the first that is installed.").format(names=names)
        )
    return hints


def _budget(size: int, runtime: Runtime) -> str:
    need = runtime.memory_mb(size)
    return (
        _("{title}: loading and the first pair take about {need} MB at their peak.").format(
            title=runtime.title, need=need
        )
        + " "
        + board_text(need)
    )


def _torchscript_lines(facts: Facts) -> tuple[str, ...]:
    return (
        "import torch",
        "",
        'torch.backends.quantized.engine = "qnnpack"  # before torch.jit.load',
        f'model = torch.jit.load("{facts.name}.pt")',
        "with torch.no_grad():",
        f"    velocity, seismic = model{'.simulate' if facts.acquisition else ''}(1)",
    )


def _trouble(facts: Facts, runtimes: list[Runtime]) -> list[tuple[str, str]]:
    rows = [
        (
            "`error: externally-managed-environment`",
            _("pip outside of the virtual environment: use `{pip}`").format(pip=f"{VENV}/bin/pip"),
        ),
        (
            _("`pip` finds no version"),
            _("a 32-bit system, or Python older than 3.11: install the 64-bit Raspberry Pi OS"),
        ),
        (
            "`Killed`, `MemoryError`",
            _("too little memory: close other programs, or export a smaller preset"),
        ),
        (_("`... is not whole`"), _("the copy broke off: copy the model again")),
    ]
    if TORCHSCRIPT in runtimes:
        rows.insert(
            0,
            (
                "`Illegal instruction`",
                _("another PyTorch than {version}: install this version").format(version=PI_TORCH),
            ),
        )
        rows.append(
            ("`PytorchStreamReader failed`", _("the copy is damaged: copy the model again")),
        )
    return rows
