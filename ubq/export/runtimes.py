"""What each runtime of an exported model needs on a Raspberry Pi: file, library, tested versions.

Light: imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

NUMPY = "numpy==2.4.6"
CORTEX_A72 = "0xd08"
"""CPU part of the Raspberry Pi 4."""
PI_TORCH = "2.9.1"
"""The newest PyTorch that runs on both Pis: 2.10 stops with an illegal instruction on a Pi 4 (pytorch#176993), and
from 2.11 on the default wheels for aarch64 are CUDA builds."""


@dataclass(frozen=True)
class Runtime:
    """One way to run an exported model.

    Attributes:
        name: as in ``export.formats``.
        suffixes: of its files, ``<name><suffix>``; the first decides.
        title: how people call it.
        module: Python module that must be there.
        packages: exact requirements.
        base_mb: memory of the process whatever the file, MB; a little above what studies/runtime_memory.py finds.
        file_factor: memory at the peak, over that, as a multiple of the file's size; likewise.
        imports: exact versions of what ``packages`` import, where pip must not look for all they ask for.
        stops_on: CPU parts that a library of these versions stops on with an illegal instruction.
    """

    name: str
    suffixes: tuple[str, ...]
    title: str
    module: str
    packages: tuple[str, ...]
    base_mb: int
    file_factor: float
    imports: tuple[str, ...] = ()
    stops_on: tuple[str, ...] = ()

    @property
    def installed(self) -> tuple[str, ...]:
        """Everything that pip is told to install."""
        return (*self.packages, *self.imports)

    @property
    def pip_arguments(self) -> str:
        """What follows ``pip install``."""
        return " ".join((*(("--no-deps",) if self.imports else ()), *self.installed))

    @property
    def requirements(self) -> str:
        """Name of its requirements file."""
        return f"requirements-{self.name}.txt"

    def memory_mb(self, file_bytes: int) -> int:
        """Memory at the peak of loading a file and drawing one pair, MB."""
        return round(self.base_mb + self.file_factor * file_bytes / 1e6)


TORCHSCRIPT = Runtime(
    "torchscript",
    (".pt",),
    "TorchScript",
    "torch",
    (f"torch=={PI_TORCH}", NUMPY),
    base_mb=300,
    file_factor=3.0,  # the first call packs the weights anew beside the old ones
)

ONNX = Runtime(
    "onnx",
    (".onnx", ".decoders.onnx"),
    "ONNX Runtime",
    "onnxruntime",
    ("onnxruntime==1.32.0", NUMPY),
    base_mb=80,
    file_factor=2.0,
)
EXECUTORCH = Runtime(
    "executorch",
    (".pte",),
    "ExecuTorch",
    "executorch",
    # 1.0.1, which goes with PyTorch 2.9.1, has no wheels for Python 3.13; newer ones were not tried on a Pi
    ("executorch==1.1.0", "torch==2.10.0", NUMPY),
    base_mb=410,
    file_factor=2.1,
    stops_on=(CORTEX_A72,),
    # executorch asks for its developers' tools as well, of which coremltools has no wheel for a Pi
    imports=(
        "torchao==0.14.0",
        "expecttest==0.3.0",
        "parameterized==0.9.0",
        "ruamel.yaml==0.19.1",
        "pyyaml==6.0.3",
        "tabulate==0.10.0",
        "pandas==3.1.1",
        "python-dateutil==2.9.0.post0",
        "six==1.17.0",
        "filelock==4.2.12",
        "flatbuffers==25.12.19",
        "fsspec==2026.9.0",
        "jinja2==3.1.6",
        "markupsafe==3.0.4",
        "mpmath==1.3.0",
        "networkx==3.6.1",
        "packaging==26.3",
        "sympy==1.14.0",
        "typing-extensions==4.16.0",
    ),
)
RUNTIMES = {runtime.name: runtime for runtime in (ONNX, TORCHSCRIPT, EXECUTORCH)}
"""By name, the one to prefer first."""


def runtimes_of(name: str, files: Collection[str]) -> list[Runtime]:
    """The runtimes whose files of an exported model ``name`` are all there, the one to prefer first."""
    return [r for r in RUNTIMES.values() if all(name + suffix in files for suffix in r.suffixes)]
