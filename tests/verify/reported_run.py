"""A run's folder as ``verify`` leaves it, without a model: what ``ubq report`` reads, in small."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ubq.config.load import load_config, write_frozen
from ubq.durable import dump_json
from ubq.stages.paths import RunPaths
from ubq.verify import marks
from ubq.verify.evidence import of_copies, of_maps, of_pairs, write_evidence
from ubq.verify.picture import DECODER, DIFFERENCE, WAVE, Panel, Row
from ubq.verify.report import EVIDENCE, MARK_IDS, REPORT, Mark, Report

TRAINED = ("train-autoencoder", "train-seismic", "train-diffusion", "qat-decoders", "qat-diffusion")
STAGES = ("prepare", *TRAINED, "export", "verify")
DIGEST = hashlib.sha256(b"int8").hexdigest()


def layered(count: int, seed: int) -> torch.Tensor:
    """Maps (N, 1, 70, 70) of three layers, m/s."""
    generator = torch.Generator().manual_seed(seed)
    depth = torch.arange(70.0).reshape(1, 1, 70, 1)
    z = torch.rand(count, 4, 1, 1, generator=generator)
    slope = (torch.arange(70.0) - 35).reshape(1, 1, 1, 70) * (z[:, 3:] - 0.5) * 0.5
    speed = 1600 + 500 * z[:, :1] + 900 * (depth + slope > 15 + 10 * z[:, 1:2]) + 900 * (depth - slope > 42)
    return (speed + 300 * z[:, 2:3]).float()


def gathers(count: int, seed: int) -> np.ndarray:
    """(N, 5, 1000, 70) of a hyperbola each."""
    time, place = np.arange(1000)[:, None], np.arange(70)[None]
    rng = np.random.default_rng(seed)
    shots = [np.sqrt((120 + rng.integers(400)) ** 2 + (9 * (place - p)) ** 2) for p in (0, 17, 34, 52, 69) * count]
    wave = [np.exp(-(((time - t) / 14) ** 2)) * np.cos((time - t) / 9) for t in shots]
    return np.stack(wave).reshape(count, 5, 1000, 70).astype(np.float32) * 4


def make_run(root: Path, failed_mark: str = "") -> RunPaths:
    """A complete run.

    Args:
        root: its folder.
        failed_mark: id of a mark that has failed; empty: none.
    """
    paths = RunPaths(root)
    paths.exported.mkdir(parents=True)
    loaded = load_config("demo", {"qat.epochs": 7}, isolated=True)
    paths.config.write_text(write_frozen(loaded.config))
    paths.sources.write_bytes(dump_json(loaded.provenance))
    rows, events = [], []
    for i, stage in enumerate(TRAINED):
        events.append({"event": "stage_started", "stage": stage, "step": 0})
        names = ("observe", "weights", "activations", "frozen") if stage.startswith("qat") else ("train", "frozen")
        for j, name in enumerate(names):
            events.append({"event": "phase", "stage": stage, "step": 50 * j, "phase": name})
        if stage == "train-diffusion":
            events.append({"event": "stage_resumed", "stage": stage, "step": 120})
        for step in range(0, 200, 2):
            loss = (1 + i) * np.exp(-step / 90) + 0.05 * np.sin(step) ** 2
            rows.append({"stage": stage, "step": step, "loss": float(loss)})
            if step % 20 == 0:
                rows.append({"stage": stage, "step": step, "val_loss": float(1.1 * loss)})
    paths.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "torn')
    paths.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    paths.state.write_bytes(dump_json(_state(root.name, failed_mark)))
    _write_exported(paths, failed_mark)
    for stage in ("qat-decoders", "qat-diffusion", "export"):
        paths.checkpoints(stage).mkdir(parents=True)
        file = paths.checkpoints(stage) / "quantization_analysis.json"
        file.write_bytes(dump_json(_analysis(stage == "export")))
    return paths


def _state(run: str, failed_mark: str) -> dict[str, Any]:
    machine = {"host": "box", "cpu": "Some Processor @ 2.40GHz", "cores": 8, "threads": 2}
    stages = [
        {
            "name": name, "state": "completed", "step": 200, "steps": 200, "seconds": 40.0 + 60 * i, "machine": machine,
            "peak_memory": 900_000_000 + 10_000_000 * i, "artifacts": [], "generation": 1, "error": None,
            "fingerprint": {"seed": 0},
        }
        for i, name in enumerate(STAGES)
    ]  # fmt: skip
    error = {"stage": "verify", "message": f"success marks failed: {failed_mark}", "fix": f"ubq doctor {run}"}
    return {
        "schema_version": 3, "run": run, "preset": "demo", "state": "completed", "created": "2026-01-01T00:00:00Z",
        "updated": "2026-01-01T01:00:00Z", "exit_code": 5 if failed_mark else 0,
        "error": error if failed_mark else None, "next_command": "", "preflight": [], "stages": stages,
    }  # fmt: skip


def _analysis(exported: bool) -> dict[str, Any]:
    share = {"quantised": 3, "total": 4}
    counts = dict.fromkeys(("weight_layers", "parameters", "macs", "leaf_modules", "conv1d"), share)
    names = (
        "unet.init_conv.conv",
        "unet.downs.0.block1.conv1",
        "velocity_decoder.blocks.8.conv",
        "seismic_decoder.output",
    )
    layers = [
        {"name": n, "type": "Conv2d", "parameters": 768, "macs": 196608, "weighted": True, "conv1d": False,
         "quantised": i < 3, "reason": "" if i < 3 else "quant.keep_float"}
        for i, n in enumerate(names)
    ]  # fmt: skip
    costs = [{"name": n, "part": "diffusion", "sqnr_db": 35.0, "alone": 0.05 / (i + 1)} for i, n in enumerate(names)]
    return {
        "model": counts, "exported": counts if exported else None, "layers": layers,
        **({} if exported else {"sensitivity": costs}),
    }  # fmt: skip


def _write_exported(paths: RunPaths, failed_mark: str) -> None:
    (paths.exported / "demo.pt").write_bytes(b"int8")
    manifest = {
        "name": "demo", "family": "curvefault-a", "steps": 10, "weights_sha256": "ab" * 32,
        "normalization": {"velocity_min": 1500.0, "velocity_max": 4500.0},
        "files": [{"name": "demo.pt", "bytes": 4, "sha256": DIGEST}],
        "versions": {"ubq": "0.1.0", "torch": "2.13.0"},
    }  # fmt: skip
    (paths.exported / "manifest.json").write_bytes(dump_json(manifest))
    own, real, train = layered(16, 1), layered(40, 2), layered(60, 3)
    _mark, spread = marks.diversity(own, real, [train])
    copies = spread.likeliest_copies(6)
    nearest = train[[spread.nearest_rows[i] for i in copies]]
    decoded, modelled = gathers(2, 0), gathers(2, 1)
    pairs = [
        Row("generated", own[i].numpy(), (Panel(DECODER, decoded[i], 2.91), Panel(WAVE, modelled[i], 0.0),
            Panel(DIFFERENCE, decoded[i] - modelled[i])))
        for i in range(2)
    ]  # fmt: skip
    evidence = of_pairs(pairs) | of_maps(own, real, (1200.0, 4800.0)) | of_copies(own, spread, copies, nearest)
    write_evidence(paths.exported / EVIDENCE, evidence)
    values = dict.fromkeys(MARK_IDS, 0.9) | {"int8_fidelity": {"velocity": 0.02, "seismic": 0.01}}
    found = [Mark(m, m != failed_mark, values[m], 1.0, "how it was") for m in MARK_IDS]
    distance = {"mean": 0.07}
    details = {
        "engine": "qnnpack", "solver_steps": 10, "timing": {"seconds_per_pair": 0.05, "seconds_per_gather": 0.6},
        "sliced_wasserstein": {"generated": distance, "real_floor": distance, "noise_ceiling": distance,
                               "generated_maps": 16},
    }  # fmt: skip
    Report(paths.root.name, tuple(found), details).write(paths.exported / REPORT)
