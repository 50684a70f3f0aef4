"""Sound inputs of every kind that ubq reads, small ones: what the campaign's mutations start from."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import mutations
import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "upstream"), str(HERE.parent / "deploy")]

from tiny import calibrated, tiny_model, tiny_recipe  # noqa: E402
from toy_bundle import exported_folder  # noqa: E402
from upstream_files import encoder_decoder, fork_diffusion, paper_diffusion, random_model, sizes_for  # noqa: E402

from ubq.config.load import load_config, write_frozen  # noqa: E402
from ubq.durable import dump_json  # noqa: E402
from ubq.export.bundle.folder import make_bundle  # noqa: E402
from ubq.export.lower.torchscript import write_torchscript  # noqa: E402
from ubq.jobs.owner import this_process  # noqa: E402
from ubq.jobs.state import RunState, StageState, write_state  # noqa: E402
from ubq.quant.checkpoint import save_qat  # noqa: E402
from ubq.training.store import CheckpointStore  # noqa: E402

Mutation = Callable[[bytes, Random], bytes]
Command = Sequence[str]


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Args:
        folder: name of the specimen's folder.
        targets: files in it, of which one is mutated.
        mutate: what is done to it.
        commands: that read it; each run in a copy of the folder.
        weight: how often it is drawn.
    """

    folder: str
    targets: Sequence[str]
    mutate: Mutation
    commands: Sequence[Command]
    weight: int = 1


def of_text(hostile: Callable[[str, Random], bytes]) -> Mutation:
    """Two of three times by a mutation that knows the format, else by damage."""

    def mutate(data: bytes, random: Random) -> bytes:
        return hostile(data.decode(), random) if random.random() < 0.67 else mutations.damage(data, random)

    return mutate


def of_bytes(hostile: Mutation) -> Mutation:
    def mutate(data: bytes, random: Random) -> bytes:
        return hostile(data, random) if random.random() < 0.67 else mutations.damage(data, random)

    return mutate


_CONTENT: list[dict[str, Any]] = []


def qat_checkpoint(data: bytes, random: Random) -> bytes:
    """Half of them hold what ``save_qat`` writes, changed in places."""
    if random.random() < 0.5:
        return checkpoint(data, random)
    document = torch.load(io.BytesIO(data), weights_only=True)
    key = random.choice(list(document))
    if isinstance(document[key], dict) and document[key] and random.random() < 0.8:
        document[key] = {**document[key], random.choice(list(document[key])): random.choice(_PLAIN)}
    else:
        document[key] = random.choice(_PLAIN)
    return mutations.saved(document, random)


_PLAIN = [value for value in mutations.VALUES if value != "\ud800" and value != 10**400]


def checkpoint(data: bytes, random: Random) -> bytes:
    choice = random.randrange(6)
    if choice <= 1:
        return mutations.saved(mutations.hostile_content(random.choice(_CONTENT), random), random) or data[:1000]
    if choice == 2:
        return mutations.hostile_legacy(random)
    if choice == 3:
        return mutations.hostile_pickle(b"", random)
    if choice == 4:
        return mutations.damage(data, random)
    return mutations.hostile_archive(data, random)


def archive(data: bytes, random: Random) -> bytes:
    return mutations.hostile_archive(data, random) if random.random() < 0.5 else mutations.damage(data, random)


RUN = "runs/r"
LOOKS: Sequence[Command] = (("status", "r"), ("status", "r", "--json"), ("runs",), ("runs", "--json"), ("logs", "r"))

KINDS: Mapping[str, Kind] = {
    "TOML": Kind(
        "project",
        ("ubq.toml",),
        of_text(mutations.hostile_toml),
        (
            ("config", "validate", "ubq.toml"),
            ("config", "show", "--config", "ubq.toml"),
            ("run", "--dry-run"),
            ("config", "diff", "ubq.toml", "smoke"),
            ("--lang", "zh_CN", "config", "validate", "ubq.toml"),
        ),
        6,
    ),
    "user's TOML": Kind(
        "project",
        ("xdg/ubq/config.toml", "xdg/ubq/interface.toml"),
        of_text(mutations.hostile_toml),
        (("config", "show", "--preset", "smoke"), ("runs",)),
        2,
    ),
    "config.toml of a run": Kind(
        "run",
        (f"{RUN}/config.toml",),
        of_text(mutations.hostile_toml),
        (
            ("status", "r"),
            ("config", "diff", "r", "smoke"),
            ("doctor", "r"),
            ("runs",),
        ),
        3,
    ),
    ".npy": Kind(
        "data",
        ("maps/vel2_1_0.npy", "maps/seis2_1_0.npy"),
        of_bytes(mutations.hostile_npy),
        (("data", "inspect", "maps"), ("data", "inspect", "maps", "--json")),
        6,
    ),
    "checkpoint": Kind(
        "checkpoint",
        ("m.pt", "e.pt"),
        checkpoint,
        (
            ("checkpoint", "inspect", "m.pt", "--decoder-checkpoint", "e.pt"),
            ("checkpoint", "inspect", "m.pt", "--json"),
            ("checkpoint", "inspect", "e.pt", "--weights", "raw"),
            ("checkpoint", "weights", "m.pt", "--output", "new.pt"),
            ("checkpoint", "inspect", "m.pt"),
            ("checkpoint", "weights", "e.pt", "--output", "new.pt"),
            ("doctor", "ubq.toml"),  # reads it whole and runs it
        ),
        12,
    ),
    "safetensors": Kind(
        "checkpoint",
        ("m.safetensors",),
        of_bytes(mutations.hostile_safetensors),
        (("checkpoint", "inspect", "m.safetensors"), ("checkpoint", "weights", "m.safetensors", "--output", "new.pt")),
        3,
    ),
    "QAT checkpoint": Kind(
        "quantised", ("q.pt",), qat_checkpoint, (("quant", "analyze", "q.pt"), ("export", "digest", "q.pt")), 3
    ),
    "TorchScript": Kind(
        "quantised",
        ("x.pt",),
        archive,
        (
            ("export", "digest", "x.pt"),
            ("quant", "analyze", "x.pt"),
            ("sample", "x.pt", "--count", "1", "--out", "new"),
        ),
        2,
    ),
    "state.json": Kind(
        "run",
        (f"{RUN}/state.json",),
        of_text(mutations.hostile_json),
        (
            *LOOKS,
            ("attach", "r"),
            ("stop", "r"),
            ("doctor", "r"),
            ("run", "--config", f"{RUN}/config.toml", "--dry-run"),
        ),
        6,
    ),
    "owner.json": Kind(
        "run", (f"{RUN}/owner.json",), of_text(mutations.hostile_json), (*LOOKS, ("stop", "r", "--timeout", "0")), 4
    ),
    "JSON lines and logs": Kind(
        "run",
        (f"{RUN}/events.jsonl", f"{RUN}/metrics.jsonl", f"{RUN}/run.log"),
        of_text(mutations.hostile_lines),
        (("doctor", "r"), ("logs", "r"), ("attach", "r"), ("status", "r"), ("logs", "r"), ("status", "r")),
        2,
    ),
    "facts of a run": Kind(
        "run",
        (
            f"{RUN}/data/dataset.json",
            f"{RUN}/exported_models/report.json",
            f"{RUN}/checkpoints/qat_decoders/quantization_analysis.json",
            f"{RUN}/checkpoints/train_diffusion/step-5/manifest.json",
        ),
        of_text(mutations.hostile_json),
        (("doctor", "r"), ("doctor", "r", "--json")),
        1,
    ),
    "manifest": Kind(
        "run",
        (f"{RUN}/exported_models/manifest.json",),
        of_text(mutations.hostile_json),
        (
            ("export", "r", "--bundle", "--out", "new"),
            ("deploy", "nowhere:x", "r"),
            ("sample", "r", "--count", "1", "--out", "new"),
        ),
        4,
    ),
    "bundle": Kind(
        "bundle",
        ("toy-bundle/manifest.json", "toy-bundle/toy.onnx", "toy-bundle/generate.py"),
        lambda data, random: (
            of_text(mutations.hostile_json)(data, random) if data[:1] == b"{" else mutations.damage(data, random)
        ),
        (("deploy", "nowhere:x", "toy-bundle"),),
        3,
    ),
    "translation": Kind(
        "translation",
        ("locale/zh_CN/LC_MESSAGES/ubq.mo",),
        mutations.damage,
        (("--lang", "zh_CN", "runs"), ("--lang", "zh_CN", "status", "none"), ("--lang", "zh_CN", "--help")),
        2,
    ),
}


def build(root: Path) -> None:
    """Write every specimen's folder."""
    torch.set_num_threads(1)
    config = load_config("smoke", isolated=True).config
    text = write_frozen(config)
    _project(root / "project", text)
    _data(root / "data")
    _checkpoint(root / "checkpoint")
    _quantised(root / "quantised")
    _run(root / "run", text)
    (root / "bundle").mkdir()
    exported = exported_folder(root / "bundle/exported")
    for model in exported.glob("toy.pt"):
        model.write_bytes(b"0" * 3_000_000)
    bundle = root / "bundle" / "toy-bundle"
    shutil.copytree(root / RUN_FOLDER / "exported_models", root / "bundle/small")
    shutil.rmtree(exported)
    made = make_bundle(root / "bundle/small", root / "bundle")
    assert made.folder == bundle
    import ubq.i18n

    source = ubq.i18n.LOCALE_DIR
    shutil.copytree(source, root / "translation/locale")


RUN_FOLDER = f"run/{RUN}"


def _project(folder: Path, text: str) -> None:
    (folder / "xdg/ubq").mkdir(parents=True)
    (folder / "ubq.toml").write_text(text)
    (folder / "xdg/ubq/config.toml").write_text('threads = 2\n[run]\ndir = "runs"\n[qat]\nepochs = 3\nlr = 1e-4\n')
    (folder / "xdg/ubq/interface.toml").write_text('language = "zh_CN"\ntheme = "dark"\n[keys]\nhelp = "f1"\n')


def _data(folder: Path) -> None:
    (folder / "maps").mkdir(parents=True)
    random = np.random.default_rng(0)
    np.save(folder / "maps/vel2_1_0.npy", random.uniform(1500, 4500, (2, 1, 70, 70)).astype("<f4"))
    np.save(folder / "maps/seis2_1_0.npy", random.normal(size=(2, 5, 1000, 70)).astype("<f4"))


def _checkpoint(folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    fork, paper = (random_model(sizes_for(v, dim_mults=[1, 2])) for v in ("fork", "paper"))
    _CONTENT[:] = [fork_diffusion(fork.sizes, fork, fork), paper_diffusion(paper.sizes, paper, paper)]
    _CONTENT.append(encoder_decoder(fork.sizes, fork))
    torch.save(_CONTENT[0], folder / "m.pt")
    torch.save(_CONTENT[2], folder / "e.pt")
    state = _CONTENT[0]["model"].items()
    save_file({n: t.clone() for n, t in state if not n.startswith("diffusion.model")}, folder / "m.safetensors")
    (folder / "ubq.toml").write_text('extends = "smoke"\n[pretrained]\npath = "m.pt"\n')


def _quantised(folder: Path) -> None:
    folder.mkdir()
    recipe = tiny_recipe("paper")
    generator = calibrated(tiny_model("paper"), recipe)
    save_qat(folder / "q.pt", generator, recipe)
    backend = "x86" if "x86" in torch.backends.quantized.supported_engines else "qnnpack"
    write_torchscript(generator, folder / "x.pt", backend, recipe.quant.time_tables)


def _run(folder: Path, text: str) -> None:
    run = folder / RUN
    run.mkdir(parents=True)
    (run / "config.toml").write_text(text)
    stages = [
        StageState("prepare", "completed", 1, 1),
        StageState("train-diffusion", "interrupted", 5, 10, loss=0.5, last_checkpoint=5, notes=[{"step": 2}]),
    ]
    error = {"stage": "train-diffusion", "message": "stopped", "fix": ""}
    state = RunState(
        "r", "smoke", "interrupted", created="2026-01-01T00:00:00Z", exit_code=130, stages=stages, error=error
    )
    state.next_command = "ubq resume r"
    write_state(run / "state.json", state)
    gone = replace(this_process("ubq run"), pid=4_000_000)  # of this machine, so that no heartbeat is waited for
    (run / "owner.json").write_bytes(dump_json(asdict(gone)))
    os.utime(run / "owner.json", (0, 0))  # its heartbeat has long been silent
    rows = [
        {
            "event": "out_of_memory",
            "stage": "train-diffusion",
            "step": 3,
            "accumulate": 2,
            "time": "2026-01-01T00:00:00Z",
        }
    ]
    (run / "events.jsonl").write_bytes(b"".join(map(dump_json, rows * 3)))
    losses = [{"stage": "train-diffusion", "step": i, "loss": 1 / (i + 1)} for i in range(5)]
    (run / "metrics.jsonl").write_bytes(b"".join(map(dump_json, losses)))
    (run / "run.log").write_text("begin\nwarning: slow\n" * 5)
    (run / "data").mkdir()
    (run / "data/dataset.json").write_text(json.dumps({"warnings": ["odd"], "train": 3, "val": 1}))
    store = CheckpointStore(run / "checkpoints/train_diffusion")
    store.save(5, {"weights": torch.zeros(3)})
    counts = {name: {"quantised": 9, "total": 10} for name in ("weight_layers", "parameters", "macs")}
    (run / "checkpoints/qat_decoders").mkdir()
    (run / "checkpoints/qat_decoders/quantization_analysis.json").write_text(json.dumps({"model": counts}))
    exported = exported_folder(run / "exported_models")
    (exported / "toy.pt").write_bytes(b"0" * 1000)
    _renew_manifest(exported)
    marks = [{"id": "loss_falling", "passed": False, "value": {"a": 1.0}, "threshold": 0, "how": "train-diffusion: up"}]
    (exported / "report.json").write_text(json.dumps({"run": "r", "passed": False, "marks": marks}))


def _renew_manifest(folder: Path) -> None:
    """After the large model was made small."""
    from ubq.export.manifest import facts_from, read_manifest, write_manifest

    manifest = read_manifest(folder / "manifest.json")
    files = [folder / entry["name"] for entry in manifest["files"]]
    write_manifest(folder, facts_from(manifest), files, manifest["weights_sha256"])


def legible(data: bytes) -> str:
    """The beginning of an input, for the report of a fault."""
    return repr(io.BytesIO(data).read(200))
