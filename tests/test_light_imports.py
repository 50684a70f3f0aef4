"""Commands that only look must not pay for torch: each light module alone, in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ubq

ROOT = Path(ubq.__file__).parent
HEAVY = ("torch", "numpy", "scipy", "matplotlib", "textual", "deepwave", "onnx", "onnxruntime")
PACKAGES = ("config", "jobs", "slurm", "cli", "stages")
SCRIPT = """
import importlib, sys
names, heavy = sys.argv[1].split(","), sys.argv[2].split(",")
for name in names:
    for loaded in [m for m in sys.modules if m.split(".")[0] in ("ubq", *heavy)]:
        del sys.modules[loaded]
    importlib.import_module(name)
    pulled = [h for h in heavy if h in sys.modules]
    if pulled:
        print(name, "imports", ", ".join(pulled))
"""


def modules(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    dotted = [".".join(("ubq", *file.relative_to(ROOT).with_suffix("").parts)) for file in files]
    return [name.removesuffix(".__init__") for name in dotted]


@pytest.mark.parametrize("package", PACKAGES)
def test_light_packages_import_nothing_heavy(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ",".join(modules(package)), ",".join(HEAVY)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_the_names_at_the_root_are_light() -> None:
    names = (
        "ubq",
        "ubq.errors",
        "ubq.i18n",
        "ubq.interface",
        "ubq.durable",
        "ubq.cpu",
        "ubq.model.parts",
        "ubq.data.files",
        "ubq.data.content",
        "ubq.runtime.facts",
        "ubq.runtime",
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ",".join(names), ",".join(HEAVY)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
