"""Questions that need torch or numpy, answered by a process of their own: ``python -m ubq.tui.probe``.

One JSON request a line on stdin, ``{"ask": "estimate", "file": …, "text": …}``, and one JSON answer a line
on stdout. It ends when stdin does, that is, with the user interface.

``python -m ubq.tui.probe presets`` writes ``preset_facts.json``, which the start screen shows.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.tui.cost import FACTS_FILE, bytes_text

if TYPE_CHECKING:
    from torch import nn

    from ubq.config.load import Loaded
    from ubq.config.schema import Config, QuantConfig, TrainingConfig
    from ubq.quant.generator import Generator

CODE_BYTES = 90_000
"""TorchScript code in an exported file, as counted in that of the preset smoke."""
RECORD_BYTES = 190
"""What the archive adds to each tensor: headers and alignment, counted in the same file."""


def estimate(config: Config) -> dict[str, Any]:
    """What a configuration takes.

    Returns:
        ``memory``: peak bytes by training stage; ``file_bytes``: the exported file; ``operations``: float32
        operations of all training; ``pairs``: to be modelled first. Backward costs twice the forward pass, two
        operations a multiply-accumulate; the encoder what the velocity decoder does, whose mirror it is.
    """
    from ubq.jobs.mends import training_of
    from ubq.quant.analysis import count_model
    from ubq.quant.generator import part_of
    from ubq.stages.memory import memory_of

    generator = deployed(config)
    layers = [(part_of(layer.name), layer) for layer in count_model(generator, config.quant).layers]
    macs = {part: sum(layer.macs for name, layer in layers if name == part) for part in dict(layers)}
    by_stage = {
        "train-autoencoder": 2 * macs["velocity"],
        "train-seismic": macs["seismic"],
        "train-diffusion": macs["diffusion"],
        "qat-decoders": macs["velocity"] + macs["seismic"],
        "qat-diffusion": macs["diffusion"],
    }
    memory = {name: needed.total for name, needed in memory_of(config).items()}
    samples, operations = training_samples(config), 0.0
    for stage in memory:
        training = training_of(config, stage)
        assert training is not None
        operations += 6 * by_stage[stage] * samples_seen(training, samples)
    return {
        "memory": memory,
        "file_bytes": file_bytes(generator, config.quant),
        "operations": operations,
        "pairs": 0 if has_data(config) else config.data.synth_samples,
    }


def deployed(config: Config) -> Generator:
    """The fake-quantised generator of a configuration, without memory for its weights."""
    import torch

    from ubq.data.normalization import for_config
    from ubq.model import ModelSizes, UBDiff
    from ubq.quant.generator import Recipe, deployable
    from ubq.quant.prepare import prepare_qat

    sizes = ModelSizes.from_dict(config.model.model_dump())
    with torch.device("meta"):
        model = UBDiff(sizes)
    generator = deployable(model, Recipe(sizes, for_config(config.data), config.quant, config.export), keep_model=False)
    prepare_qat(generator, config.quant)
    return generator


def file_bytes(generator: Generator, quant: QuantConfig) -> int:
    """Size of the TorchScript file that a generator becomes.

    PyTorch packs an int8 weight with a float64 scale and an int64 zero point for each output channel (one of each
    for a whole tensor with the scheme ``default``) and a float32 bias: of a small model's seismic head, with few
    inputs and 350,000 outputs, these are the larger part.
    """
    from ubq.quant.generator import with_time_tables
    from ubq.quant.layers import QuantLayer

    if quant.time_tables:
        generator = with_time_tables(generator)
    total = CODE_BYTES

    def count(module: nn.Module) -> None:
        nonlocal total
        if isinstance(module, QuantLayer):  # its observers become numbers in the code
            grids = len(module.weight) if module.per_channel else 1
            total += module.weight.numel() + 16 * grids + (0 if module.bias is None else 4 * len(module.bias))
            total += (5 if module.per_channel else 3) * RECORD_BYTES
            return
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            total += tensor.numel() * tensor.element_size() + RECORD_BYTES
        for child in module.children():
            count(child)

    count(generator)
    return total


def has_data(config: Config) -> bool:
    """Whether the run reads a data set; the presets of OpenFWI sets are meant for one, wherever it lies."""
    return bool(config.data.train_velocity) or "OpenFWI" in config.description


def training_samples(config: Config) -> int:
    """Training pairs: those to synthesise, or those of the official split."""
    from ubq.data.families import FAMILIES, SAMPLES_PER_FILE

    if has_data(config):
        return len(FAMILIES[config.data.family].file_ids("train")) * SAMPLES_PER_FILE
    return config.data.synth_samples


def samples_seen(training: TrainingConfig, samples: int) -> int:
    """Samples that a stage trains on, repeats counted."""
    if training.steps:
        return training.steps * training.batch_size
    return training.epochs * samples


def preset_facts() -> dict[str, Any]:
    """What the start screen says of each preset, by name."""
    from ubq.config import presets
    from ubq.config.load import load_config

    found = {}
    for name in presets.names():
        facts = estimate(load_config(name, isolated=True, environ={}).config)
        found[name] = {"memory_bytes": max(facts.pop("memory").values()), **facts}
    return found


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    from ubq.config.load import load_config

    loaded = load_config(project_file=Path(request["file"]), project_text=request["text"])
    return _ASK[request["ask"]](loaded)


def _estimate(loaded: Loaded) -> dict[str, Any]:
    from ubq.jobs.doctor import memory_available

    return {**estimate(loaded.config), "available": memory_available()}


def _preflight(loaded: Loaded) -> dict[str, Any]:
    """The checks a run starts with, and what each stage would do."""
    from ubq.jobs.preflight import check_run
    from ubq.jobs.runner import dry_run, pipeline
    from ubq.stages.paths import RunPaths

    config = loaded.config
    paths = RunPaths(Path(config.run.dir) / (config.run.name or "run"))
    planned = dry_run(config, paths, preset=loaded.preset)
    todo = [s for s in pipeline() if any(p.name == s.name and p.action != "up to date" for p in planned)]
    return {
        "checks": [c.as_dict() for c in check_run(config, paths, todo)],
        "plan": [p.as_dict() for p in planned],
        "exists": paths.root.exists(),
    }


def _data(loaded: Loaded) -> dict[str, Any]:
    """Files, pairs, shapes and data set, from the files' headers; ``bytes`` of the samples, none of them read."""
    import numpy as np

    from ubq.data.pairs import open_pairs
    from ubq.jobs.checks import Check
    from ubq.jobs.doctor import data

    config = loaded.config
    checks, total = list(data(config, None)), 0
    if config.data.train_velocity:
        split = open_pairs(config.data, config.seed)
        pairs = [pair for side in (split.train, split.val) for pair in side.files]
        files = {a.path: a for pair in pairs for a in (pair.velocity, pair.seismic) if a}
        total = sum(a.samples * a.sample_bytes for a in files.values())
        shapes = sorted({f"{np.dtype(a.dtype).name} {a.sample_shape}" for a in files.values()}, key=len)
        figure = _("{count} files, {size}; samples {shapes}")
        figure = figure.format(count=len(files), size=bytes_text(total), shapes=", ".join(shapes))
        checks.insert(0, Check(id="data.shape", status="ok", figure=figure))
    return {"checks": [c.as_dict() for c in checks], "bytes": total}


def _content(loaded: Loaded) -> dict[str, Any]:
    """Every sample read, as the stage ``prepare`` will: damaged, implausible or doubled ones."""
    from ubq.data.validate import validate
    from ubq.jobs.checks import Check

    config = loaded.config
    model = config.model
    shape = (model.sources, model.seismic_samples, model.receivers)
    report = validate(config.data, config.seed, seismic_shape=shape)
    checks = [Check(id="data.content", status="ok", figure=_("all samples read: {what}").format(what=report.summary()))]
    checks += [Check(id="data.content", status="warning", figure=w) for w in report.warnings]
    return {"checks": [c.as_dict() for c in checks]}


_ASK: Mapping[str, Callable[[Loaded], dict[str, Any]]] = {
    "estimate": _estimate,
    "preflight": _preflight,
    "data": _data,
    "content": _content,
}


def main() -> None:
    """Answer until stdin ends."""
    # Answers alone go to stdout; what a library prints goes nowhere.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        for line in sys.stdin:
            try:
                answer = _answer(json.loads(line))
            except UbqError as error:
                answer = {"error": error.message, "mend": error.mend}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0], "mend": ""}
            print(json.dumps(answer, ensure_ascii=False), file=answers, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["presets"]:
        FACTS_FILE.write_text(json.dumps(preset_facts(), indent=1) + "\n", encoding="utf-8")
    else:
        main()
