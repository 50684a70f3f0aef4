"""QAT against PTQ and against float trained for the same extra steps, from one run's pretraining, several seeds.

``python studies/ptq_qat.py RUN_FOLDER --out FOLDER [--seeds 3] [--pairs 1024] [--physics 128]``

Every contender is a run of its own in FOLDER that shares RUN_FOLDER's data and pretraining and takes the stages
qat-decoders, qat-diffusion and export through ``ubq run --only``:

    QAT      the configuration of RUN_FOLDER
    PTQ      qat.epochs = 0: calibration only
    float+   the same steps with every observer on and nothing ever quantised; measured in float

What is finished is not done again, so the same command goes on after an interruption. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from quality import SSIM, figures_of, held_out, models_of
from torch import Tensor

from ubq.config.load import read_frozen
from ubq.config.schema import Config
from ubq.data.pairs import open_pairs
from ubq.durable import dump_json, write_atomic
from ubq.export.lower.torchscript import engine, load_torchscript
from ubq.stages.export import name_of, reference_file
from ubq.stages.maps import data_of
from ubq.stages.paths import RunPaths

TABLES = ("qat", "qat.decoders", "qat.diffusion")
CONTENDERS: dict[str, dict[str, object]] = {
    "float+": {f"{table}.warmup": [1.0, 1.0, 1.0] for table in TABLES},
    "PTQ": {f"{table}.{key}": 0 for table in TABLES for key in ("epochs", "steps")},
    "QAT": {},
}
"""What each of them changes in the run's configuration."""
STAGES = ("qat-decoders", "qat-diffusion", "export")
PRETRAINING = ("train-autoencoder", "train-seismic", "train-diffusion", "import", "distill")

Values = dict[str, float]


def make(source: RunPaths, target: RunPaths, seed: int, changes: Mapping[str, object]) -> None:
    """Take one contender through its stages; those whose files are there already are left out."""
    config = read_frozen(source.config)
    project = target.root.with_suffix(".toml")
    if not project.exists():
        shutil.rmtree(target.root, ignore_errors=True)
        target.root.mkdir(parents=True)
        folders = [source.checkpoints(stage) for stage in PRETRAINING] + [source.latents.parent]
        for folder in folders:
            if folder.exists():
                copy = target.root / folder.relative_to(source.root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("step-*"), dirs_exist_ok=True)
        target.data.symlink_to(source.data.resolve())
        shutil.copyfile(source.config, project)
    if not torch.equal(_held_out_maps(config, source, seed), _held_out_maps(config, source, config.seed)):
        raise SystemExit("the split of these data follows the seed: name held-out files with data.val_velocity")
    settings = {
        "run.dir": str(target.root.parent),
        "run.name": target.root.name,
        "seed": seed,
        **changes,
    }
    command = [sys.executable, "-m", "ubq", "run", "--config", str(project), "--no-preflight"]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    for stage in STAGES:
        done = subprocess.run([*command, "--only", stage], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{target.root.name}, {stage}:\n{done.stderr}")


def _held_out_maps(config: Config, paths: RunPaths, seed: int) -> Tensor:
    split = open_pairs(data_of(config, paths), seed, False)
    return split.val.velocity_batch(range(min(len(split.val), 8)))


@torch.no_grad()
def measure(paths: RunPaths, split_of: RunPaths, contender: str, count: int, physics: int) -> Values:
    """Figures of a contender's exported file on the held-out pairs of ``split_of``; kept beside its run."""
    cache = paths.root.with_suffix(f".{count}-{physics}.json")
    if cache.exists():
        return json.loads(cache.read_text())
    config = read_frozen(paths.config)
    file = paths.exported / f"{name_of(config, paths)}.pt"
    with engine(config.quant.backend):
        model = load_torchscript(reference_file(config, paths) if contender == "float+" else file, config.quant.backend)
        values = figures_of(model, held_out(read_frozen(split_of.config), split_of), count, physics).values
    write_atomic(cache, dump_json(values))
    return values


def table(pretrained: Values, values: Mapping[str, Sequence[Values]]) -> str:
    """Means over the seeds with the spread (largest less smallest) in brackets, and the verdict on QAT."""
    lines = ["| held-out figure | float | " + " | ".join(values) + " | QAT not worse than PTQ, than float+ |"]
    lines.append("|" + "---|" * (len(values) + 3))
    for name, value in pretrained.items():
        columns = {kind: [run[name] for run in runs] for kind, runs in values.items()}
        means = {kind: statistics.fmean(c) for kind, c in columns.items()}
        spreads = {kind: max(c) - min(c) for kind, c in columns.items()}
        sign = -1 if name == SSIM else 1
        verdicts = [
            "yes" if sign * (means["QAT"] - means[other]) <= max(spreads["QAT"], spreads[other]) else "NO"
            for other in ("PTQ", "float+")
        ]
        shown = " | ".join(f"{means[kind]:.4f} ({spreads[kind]:.4f})" for kind in values)
        lines.append(f"| {name} | {value:.4f} | {shown} | {', '.join(verdicts)} |")
    return "\n".join(lines)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=1024, help="pairs generated for the distribution distance")
    parser.add_argument("--physics", type=int, default=128, help="pairs forward modelled")
    arguments = parser.parse_args()
    source = RunPaths(arguments.run)
    config = read_frozen(source.config)
    torch.set_num_threads(config.threads)
    values: dict[str, list[Values]] = {kind: [] for kind in CONTENDERS}
    for seed in range(config.seed, config.seed + arguments.seeds):
        for kind, changes in CONTENDERS.items():
            paths = RunPaths(arguments.out / f"{kind.replace('+', '-extra')}-{seed}")
            make(source, paths, seed, changes)
            values[kind].append(measure(paths, source, kind, arguments.pairs, arguments.physics))
            print(f"{paths.root.name} done", file=sys.stderr, flush=True)
    pretrained = figures_of(
        models_of(config, source, ("float",))["float"], held_out(config, source), arguments.pairs, arguments.physics
    )
    print(f"{arguments.seeds} seeds, engine {config.quant.backend}, {arguments.pairs} generated pairs, "
          f"{arguments.physics} forward modelled\n")  # fmt: skip
    print(table(pretrained.values, values))


if __name__ == "__main__":
    main()
