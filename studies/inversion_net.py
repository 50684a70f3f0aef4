"""Do generated pairs help a network that inverts gathers for velocity, and does it matter how their gathers were made?

``python studies/inversion_net.py --real MAPS GATHERS --test MAPS GATHERS --wave PAIRS --decoder PAIRS --out FOLDER``

A small InversionNet (Wu & Lin 2019: time is squeezed out first, then both axes, down to one vector, from which
transposed convolutions build the map) at half of its channels learns velocity from gathers with an L1 loss, AdamW and
a one-cycle rate. Every arm takes the same number of optimiser steps with the same batch size:

    A  the real pairs
    B  the real pairs, mirrored in half of the draws
    C  generated pairs alone, wave-equation gathers
    D  real pairs and generated ones, wave-equation gathers; half of each batch is real
    E  as D, the same generated maps with the decoder's gathers

PAIRS are folders of ``ubq sample`` with one seed, ``--gathers wave`` and ``--gathers decoder``. The generator must
have trained on exactly the real maps: give it other maps to be judged by (``--val-label``), since a run of ``ubq``
otherwise holds out up to half of its own. Those decide no weight, and none of them may be a test map.

Gathers are averaged over ``--pool`` samples of time (a wavelet of 15 Hz allows the default) and log-normalised about
zero. Each arm and seed leaves a file in FOLDER, and what is there is not trained again, so the same command goes on
after an interruption; ``--arms A B`` needs no generated pairs. Writes ``result.md`` and ``result.json`` from all that
is there: the error over the test maps, and how far each arm is from another, with paired bootstrap intervals over
seeds and test maps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ubq.bench.timing import machine, markdown
from ubq.data.families import FAMILIES, VELOCITY_RANGE
from ubq.data.normalization import Normalization
from ubq.data.pairs import open_files
from ubq.durable import dump_json, write_atomic
from ubq.errors import DataError, UbqError, UsageError
from ubq.stages.heap import kept_heap

ARMS = {"A": "real", "B": "real, mirrored", "C": "generated, wave equation", "D": "real + C", "E": "real + decoder's"}
NEEDS = {"A": ("real",), "B": ("real",), "C": ("wave",), "D": ("real", "wave"), "E": ("real", "decoder")}
"""The sets that share each batch of an arm, in equal parts."""
COMPARED = (("B", "A"), ("C", "A"), ("D", "A"), ("E", "A"), ("D", "B"), ("D", "E"))
AMPLITUDE = max(abs(bound) for bound in FAMILIES["curvevel-a"].amplitude)
SCALE = Normalization(-AMPLITUDE, AMPLITUDE, *VELOCITY_RANGE)
"""Zero stays zero, where half precision is finest."""
RESAMPLES = 2_000
RESULTS = "[A-E]-[0-9]*.json"


@dataclass(frozen=True)
class PairSet:
    """Maps (N, 1, 70, 70) float32 and gathers (N, 5, T, 70) float16, both in [-1, 1]."""

    velocity: Tensor
    seismic: Tensor

    def __len__(self) -> int:
        return len(self.velocity)


@dataclass(frozen=True)
class Options:
    """Of every training alike."""

    steps: int
    batch: int
    lr: float
    width: int
    pool: int
    bfloat16: bool


class InversionNet(nn.Sequential):
    """Gathers (B, S, T, 70) to maps (B, 1, 70, 70) in [-1, 1]. Wu & Lin 2019, whose ``width`` is 32.

    Args:
        samples: T, of which seven layers leave a 128th.
        width: channels of the first layer.
        sources: S.
    """

    def __init__(self, samples: int, width: int = 16, sources: int = 5) -> None:
        w, rest = width, (-(-samples // 128), 9)
        super().__init__(
            _conv(sources, w, (7, 1), (2, 1)),
            _conv(w, 2 * w, (3, 1), (2, 1)),
            _conv(2 * w, 2 * w, (3, 1)),
            _conv(2 * w, 2 * w, (3, 1), (2, 1)),
            _conv(2 * w, 2 * w, (3, 1)),
            _conv(2 * w, 4 * w, (3, 1), (2, 1)),
            _conv(4 * w, 4 * w, (3, 1)),
            _conv(4 * w, 4 * w, (3, 3), (2, 2)),
            _conv(4 * w, 4 * w, (3, 3)),
            _conv(4 * w, 8 * w, (3, 3), (2, 2)),
            _conv(8 * w, 8 * w, (3, 3)),
            _conv(8 * w, 8 * w, (3, 3), (2, 2)),
            _conv(8 * w, 8 * w, (3, 3)),
            _activated(nn.Conv2d(8 * w, 16 * w, rest, bias=False), 16 * w),
            _activated(nn.ConvTranspose2d(16 * w, 16 * w, 5, bias=False), 16 * w),
            _conv(16 * w, 16 * w, (3, 3)),
            *(_doubled(a * w, b * w) for a, b in ((16, 8), (8, 4), (4, 2), (2, 1))),
            nn.ZeroPad2d(-5),
            nn.Conv2d(w, 1, 3, padding=1),
            nn.Tanh(),
        )


def _activated(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.LeakyReLU(0.2, inplace=True))


def _conv(inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return _activated(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), outputs)


def _doubled(inputs: int, outputs: int) -> nn.Sequential:
    up = _activated(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), outputs)
    return nn.Sequential(up, _conv(outputs, outputs, (3, 3)))


def mirrored(velocity: Tensor, seismic: Tensor) -> tuple[Tensor, Tensor]:
    """The same pair seen from behind: x reversed in the map, and sources and receivers in the gathers.

    The middle source stands at cell 34 of 0 to 69, so its mirrored shot is one of cell 35: 10 m off.
    """
    return velocity.flip(3), seismic.flip(1, 3)


def read_pairs(velocity: Path, seismic: Path, pool: int) -> PairSet:
    """All pairs of one place of maps and one of gathers.

    Raises:
        DataError: a file cannot be used, or has no partner.
    """
    maps, gathers = [], []
    for pair in open_files(velocity, seismic, need_seismic=True):
        if pair.seismic is None:
            raise DataError(f"{pair.velocity.path} has no gathers in {seismic}", "model them with ubq data forward")
        maps.append(SCALE.velocity(torch.from_numpy(pair.velocity.read(range(pair.gathers)))))
        for row in range(pair.gathers):
            shot_STR = torch.from_numpy(pair.seismic.read((row,)))[0]
            pooled = functional.avg_pool2d(shot_STR, (pool, 1))
            gathers.append(SCALE.seismic(pooled).half())
    return PairSet(torch.cat(maps), torch.stack(gathers))


def check_apart(train: Mapping[str, PairSet], test: PairSet) -> None:
    """Raise DataError where a test map is among the training maps, or D's and E's maps are not the same."""
    seen = {each.numpy().tobytes() for each in test.velocity}
    for name, pairs in train.items():
        shared = sum(each.numpy().tobytes() in seen for each in pairs.velocity)
        if shared:
            raise DataError(f"{shared} maps of the {name} pairs are test maps", "give other maps as --test")
    if {"wave", "decoder"} <= train.keys() and not torch.equal(train["wave"].velocity, train["decoder"].velocity):
        raise DataError("--wave and --decoder hold different maps", "draw both with the same ubq sample --seed")


def batch_of(arm: str, sets: Mapping[str, PairSet], size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Maps and gathers of one training step, half precision gathers as they are kept."""
    maps, gathers = [], []
    for name in NEEDS[arm]:
        pairs = sets[name]
        rows = torch.from_numpy(rng.choice(len(pairs), size // len(NEEDS[arm])))
        turned = torch.from_numpy(rng.random(len(rows)) < 0.5) & (arm == "B")
        for row, turn in zip(rows, turned, strict=True):
            velocity, seismic = pairs.velocity[row][None], pairs.seismic[row][None]
            velocity, seismic = mirrored(velocity, seismic) if turn else (velocity, seismic)
            maps.append(velocity)
            gathers.append(seismic)
    return torch.cat(maps), torch.cat(gathers)


def trained(arm: str, seed: int, sets: Mapping[str, PairSet], options: Options) -> InversionNet:
    """A network of one arm; equal seeds begin with equal weights."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    samples = sets[NEEDS[arm][0]].seismic.shape[2]
    net = InversionNet(samples, options.width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.lr)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=options.steps)
    begin, losses = time.perf_counter(), []
    for step in range(1, options.steps + 1):
        velocity, seismic = batch_of(arm, sets, options.batch, rng)
        loss = functional.l1_loss(predicted(net, seismic, options), velocity)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        losses.append(loss.item())
        if step % 50 == 0 or step == options.steps:
            recent, seconds = np.mean(losses[-50:]), time.perf_counter() - begin
            print(f"{arm} {seed}: step {step}, loss {recent:.4f}, {seconds:.0f} s", file=sys.stderr, flush=True)
    return net


def predicted(net: InversionNet, seismic: Tensor, options: Options) -> Tensor:
    """Maps (B, 1, 70, 70) float32 in [-1, 1]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
        return net(seismic.float().contiguous(memory_format=torch.channels_last)).float()


@torch.no_grad()
def map_errors(net: InversionNet, test: PairSet, options: Options) -> np.ndarray:
    """Mean absolute error of each test map, (N,), m/s."""
    net.eval()
    per_unit = (VELOCITY_RANGE[1] - VELOCITY_RANGE[0]) / 2
    blocks = [
        (predicted(net, seismic, options) - velocity).abs().mean((1, 2, 3)) * per_unit
        for velocity, seismic in zip(test.velocity.split(50), test.seismic.split(50), strict=True)
    ]
    return torch.cat(blocks).double().numpy()


@dataclass(frozen=True)
class Difference:
    """Of one arm's error from another's: m/s, and in per cent of the other's, each with its 95 % interval."""

    value: float
    low: float
    high: float
    percent: float
    percent_low: float
    percent_high: float


def difference(arm: np.ndarray, other: np.ndarray) -> Difference:
    """Of two arms' errors, (seeds, maps) each, of the same seeds and maps: both are resampled alike."""
    rng = np.random.default_rng(0)
    # a resample weighs every seed and every map by how often it was drawn
    by_seed, by_map = (rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in arm.shape)
    ours, theirs = ((by_seed @ errors * by_map).sum(1) for errors in (arm, other))
    low, high = np.quantile(ours - theirs, (0.025, 0.975))
    percent_low, percent_high = np.quantile(100 * (ours / theirs - 1), (0.025, 0.975))
    value = arm.mean() - other.mean()
    return Difference(value, low, high, 100 * value / other.mean(), percent_low, percent_high)


def summary(folder: Path) -> tuple[str, dict[str, Any]]:
    """Markdown and JSON of all results in a folder."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(folder.glob(RESULTS)):
        result = json.loads(path.read_bytes())
        found.setdefault(result["arm"], {})[result["seed"]] = result
    rows, means = [], {}
    for arm, results in found.items():
        by_seed = {seed: float(np.mean(results[seed]["errors"])) for seed in sorted(results)}
        mean = means[arm] = float(np.mean(list(by_seed.values())))
        rows.append([arm, ARMS[arm], f"{mean:.1f}", ", ".join(f"{each:.1f}" for each in by_seed.values())])
    compared: dict[str, Difference] = {}
    for arm, other in COMPARED:
        seeds = sorted(found.get(arm, {}).keys() & found.get(other, {}).keys())
        if seeds:
            both = (np.array([found[name][seed]["errors"] for seed in seeds]) for name in (arm, other))
            compared[f"{arm} - {other}"] = difference(*both)
    lines = [
        [
            name,
            f"{d.value:+.1f} ({d.low:+.1f} to {d.high:+.1f})",
            f"{d.percent:+.1f} % ({d.percent_low:+.1f} to {d.percent_high:+.1f})",
        ]
        for name, d in compared.items()
    ]
    text = "\n\n".join(
        [
            markdown(["arm", "pairs", "MAE, m/s", "by seed"], rows),
            markdown(["difference", "MAE, m/s", "of the other's"], lines),
        ]
    )
    settings: dict[str, Any] = next((r["settings"] for results in found.values() for r in results.values()), {})
    text += f"\n\n95 % paired bootstrap intervals over seeds and test maps; {settings}; {machine()}\n"
    return text, {"settings": settings, "mae": means, "differences": {k: asdict(d) for k, d in compared.items()}}


def settings_of(options: Options, test: PairSet) -> dict[str, Any]:
    """What all results of a folder have in common."""
    return {**asdict(options), "test maps": len(test)}


def missing_results(
    folder: Path, arms: Sequence[str], seeds: int, settings: Mapping[str, Any]
) -> list[tuple[str, int]]:
    """Arms and seeds still to be trained, seed by seed.

    Raises:
        UsageError: a result in the folder is of other settings.
    """
    for path in folder.glob(RESULTS):
        if json.loads(path.read_bytes())["settings"] != settings:
            raise UsageError(f"{path} was made with other settings", "give the same ones, or another --out")
    wanted = ((arm, seed) for seed, arm in product(range(seeds), arms))
    return [(arm, seed) for arm, seed in wanted if not (folder / f"{arm}-{seed}.json").exists()]


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, nargs=2, required=True, metavar=("MAPS", "GATHERS"))
    parser.add_argument("--test", type=Path, nargs=2, required=True, metavar=("MAPS", "GATHERS"))
    parser.add_argument("--wave", type=Path, metavar="PAIRS", help="for C and D")
    parser.add_argument("--decoder", type=Path, metavar="PAIRS", help="for E")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3, help="highest of the cycle")
    parser.add_argument("--width", type=int, default=16, help="channels of the first layer; 32 in the paper")
    parser.add_argument("--pool", type=int, default=4, help="time samples averaged to one")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(words)


def run(arguments: argparse.Namespace) -> str:
    """Train what is missing; the Markdown table of all that is there.

    Raises:
        UbqError: data or settings that cannot be used.
    """
    torch.set_num_threads(arguments.threads)
    options = Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__})
    places = {
        "real": arguments.real,
        "wave": arguments.wave and (arguments.wave, arguments.wave),
        "decoder": arguments.decoder and (arguments.decoder, arguments.decoder),
    }
    needed = {name for arm in arguments.arms for name in NEEDS[arm]}
    for name in sorted(needed):
        if places[name] is None:
            raise UsageError(f"--{name} is missing", "or leave arms out: --arms A B")
    arguments.out.mkdir(parents=True, exist_ok=True)
    test = read_pairs(*arguments.test, options.pool)
    settings = settings_of(options, test)
    wanted = missing_results(arguments.out, arguments.arms, arguments.seeds, settings)
    needed = {name for arm, _seed in wanted for name in NEEDS[arm]}
    sets = {name: read_pairs(*places[name], options.pool) for name in sorted(needed)}
    check_apart(sets, test)
    for arm, seed in wanted:
        begin = time.perf_counter()
        errors = map_errors(trained(arm, seed, sets, options), test, options)
        result = {
            "arm": arm,
            "seed": seed,
            "settings": settings,
            "pairs": {name: len(sets[name]) for name in NEEDS[arm]},
            "seconds": time.perf_counter() - begin,
            "errors": errors.tolist(),
        }
        write_atomic(arguments.out / f"{arm}-{seed}.json", dump_json(result))
        print(f"{arm} {seed}: MAE {errors.mean():.1f} m/s, {result['seconds']:.0f} s", file=sys.stderr, flush=True)
    text, figures = summary(arguments.out)
    write_atomic(arguments.out / "result.md", text.encode())
    write_atomic(arguments.out / "result.json", dump_json(figures))
    return text


def main() -> None:
    with kept_heap():
        try:
            print(run(parsed()))
        except UbqError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
