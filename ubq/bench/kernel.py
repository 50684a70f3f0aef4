"""One U-Net step at batch 1: float eager, the exported int8 file, the machine's own int8 matrix products, ONNX Runtime.

The int8 GEMM rate is that of ``quantized::linear`` on matrices of the sizes that the file's convolutions are:
(positions, channels x kernel) x (channels x kernel, outputs), with nothing around them. The share says how much of a
step is left to everything else: quantising, normalisation, attention, layout.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ubq.bench.subject import Subject, title_of
from ubq.bench.timing import machine, markdown, take_turns
from ubq.config.extras import missing_modules
from ubq.export.lower.quiet import quiet
from ubq.export.readback.torchscript import count_file
from ubq.quant.generator import part_of
from ubq.runtime.onnx import session_options

CALIBRATION_STEPS = 8
"""Time steps that ONNX Runtime's calibration sees."""


@dataclass(frozen=True)
class Matrix:
    """One product: (rows, inner) x (inner, columns)."""

    rows: int
    inner: int
    columns: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.rows * self.inner * self.columns


@dataclass(frozen=True)
class KernelResult:
    """Medians of one step, in seconds, and what follows from them.

    Attributes:
        ratio: float_seconds / int8_seconds.
        gemm_seconds: all matrix products of a step, alone.
        gemm_gmacs: their rate, 10^9 multiply-accumulates a second.
        share: gemm_seconds / int8_seconds.
        onnxruntime_seconds: of ONNX Runtime's own quantised version of the same float model; None: not installed.
    """

    subject: str
    model: str
    machine: str
    threads: int
    backend: str
    rounds: int
    gmacs: float
    float_seconds: float
    int8_seconds: float
    gemm_seconds: float
    onnxruntime_seconds: float | None
    ratio: float
    gemm_gmacs: float
    share: float

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)

    def to_markdown(self) -> str:
        """The table of ``bench/README.md``."""

        def row(name: str, seconds: float) -> list[str]:
            return [name, f"{1e3 * seconds:.1f}", f"{self.float_seconds / seconds:.2f}", f"{self.gmacs / seconds:.0f}"]

        rows = [row("float, eager", self.float_seconds), row(f"exported int8, {self.backend}", self.int8_seconds)]
        if self.onnxruntime_seconds is not None:
            rows.append(row("ONNX Runtime's static quantisation", self.onnxruntime_seconds))
        rows.append(row("its int8 matrix products alone", self.gemm_seconds))
        table = markdown([f"one step, {self.model}", "ms", "x float", "GMAC/s"], rows)
        without = (
            "" if self.onnxruntime_seconds is not None else "; onnxruntime is not installed: pip install 'ubq[onnx]'"
        )
        return (
            f"{table}\n\nint8 GEMM rate reached: {100 * self.share:.0f} %; batch 1, {self.threads} thread"
            f"{'s' * (self.threads != 1)}, medians of {self.rounds} alternating rounds{without}; {self.machine}"
        )


def matrices_of(file: torch.jit.ScriptModule) -> list[Matrix]:
    """The matrix products with a weight of one U-Net step, read off the file's graph; it runs once for that."""
    matrices = []
    modules = dict(file.named_modules())
    for layer in count_file(file).layers:
        if layer.quantised and part_of(layer.name) == "diffusion":
            weight = modules[layer.name].packed.unpack()[0]
            columns, inner = weight.shape[0], weight[0].numel()
            matrices.append(Matrix(layer.macs // (columns * inner), inner, columns))
    return matrices


def gemm_calls(matrices: list[Matrix]) -> Callable[[], None]:
    """All products one after the other, each with operands of its own, on the current engine."""
    calls = []
    for matrix, times in Counter(matrices).items():
        weight = torch.randint(-127, 128, (matrix.columns, matrix.inner), dtype=torch.int8)
        scales, zeros = torch.full((matrix.columns,), 0.01, dtype=torch.float64), torch.zeros(matrix.columns).long()
        levels = torch.quantize_per_tensor(torch.randn(matrix.rows, matrix.inner), 0.02, 128, torch.quint8)
        quantised = torch._make_per_channel_quantized_tensor(weight, scales, zeros, 0)
        for _time in range(times):
            packed = torch.ops.quantized.linear_prepack(quantised, torch.zeros(matrix.columns))
            calls.append((levels, packed))

    def run() -> None:
        for levels, packed in calls:
            torch.ops.quantized.linear(levels, packed, 1.0, 128)

    return run


def onnxruntime_step(
    unet: nn.Module, latent: int, diffusion_steps: int, threads: int, folder: Path
) -> Callable[[Tensor, Tensor], object]:
    """A step of ONNX Runtime's own static quantisation (per channel, QDQ) of a float U-Net.

    Convolutions and matrix products are quantised; with all operators its quantiser refuses this graph.

    Args:
        unet: float, (B, 1, L) and (B,) -> (B, 1, L).
        latent: L.
        diffusion_steps: time steps lie below it.
        threads: of the session.
        folder: to work in.
    """
    import onnxruntime
    from onnxruntime import quantization

    plain, quantised = folder / "unet.onnx", folder / "unet-int8.onnx"
    example = (torch.randn(1, 1, latent), torch.zeros(1, dtype=torch.int64))
    with quiet():
        torch.onnx.export(
            unet, example, plain, input_names=["x", "time"], output_names=["y"], verbose=False, external_data=False
        )

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            times = np.linspace(0, diffusion_steps - 1, CALIBRATION_STEPS).round().astype(np.int64)
            self.rows = iter(
                [{"x": rng.standard_normal((1, 1, latent)).astype(np.float32), "time": t.reshape(1)} for t in times]
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    with quiet():
        quantization.quantize_static(
            plain, quantised, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(quantised), session_options(threads), providers=["CPUExecutionProvider"])
    return lambda x, time: session.run(None, {"x": x.numpy(), "time": time.numpy()})


def measure_kernel(
    subject: Subject,
    *,
    rounds: int,
    threads: int,
    onnxruntime: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> KernelResult:
    """Time one U-Net step in every way, in turn.

    Args:
        subject: what is measured.
        rounds: alternating rounds.
        threads: torch's threads now; ONNX Runtime gets as many.
        onnxruntime: measure it too, where it is installed.
        progress: called with (done, total) calls.
    """
    file, unet, sizes = subject.exported.module, subject.float_model.model.unet, subject.float_model.sizes
    x, time = torch.randn(1, 1, sizes.encoder_dim), file.sampler.times[:1]
    matrices = matrices_of(file)
    calls: dict[str, Callable[[], object]] = {
        "float": lambda: unet(x, time),
        "int8": lambda: file.unet(x, time),
        "gemm": gemm_calls(matrices),
    }
    with tempfile.TemporaryDirectory(prefix="ubq-bench-") as folder, torch.no_grad():
        if onnxruntime and not missing_modules("onnx"):
            step = onnxruntime_step(unet, sizes.encoder_dim, sizes.diffusion_steps, threads, Path(folder))
            calls["onnxruntime"] = lambda: step(x, time)
        timings = take_turns(calls, rounds, warmup=3, progress=progress)
    seconds = {name: timing.median for name, timing in timings.items()}
    gmacs = sum(m.macs for m in matrices) / 1e9
    return KernelResult(
        subject=subject.title,
        model=title_of(sizes),
        machine=machine(),
        threads=threads,
        backend=subject.exported.backend,
        rounds=rounds,
        gmacs=gmacs,
        float_seconds=seconds["float"],
        int8_seconds=seconds["int8"],
        gemm_seconds=seconds["gemm"],
        onnxruntime_seconds=seconds.get("onnxruntime"),
        ratio=seconds["float"] / seconds["int8"],
        gemm_gmacs=gmacs / seconds["gemm"],
        share=seconds["gemm"] / seconds["int8"],
    )
