"""``ubq bench maps``: its table, its picture, and that it says which set of maps lost what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ubq.bench.maps import FLOOR, MapsComparison, draw_variograms, figures_of
from ubq.data.synthetic import synthesise_velocity
from ubq.metrics import variogram


@pytest.fixture(scope="module")
def found() -> MapsComparison:
    held_out = torch.from_numpy(synthesise_velocity("curvefault-a", 120, 0))
    dots = 30.0 * (torch.arange(70) % 2 == 0)
    sets = {
        FLOOR: figures_of(held_out[::2], held_out[1::2]),
        "reconstruction, float": figures_of(F.avg_pool2d(held_out, 5, 1, padding=2, count_include_pad=False), held_out),
        "exported file": figures_of(held_out + dots * dots[:, None] / 30.0, held_out),
    }
    return MapsComparison("run r", variogram(held_out), sets)


def test_blur_and_lattice_show_in_their_own_columns(found: MapsComparison) -> None:
    floor, blurred, dotted = found.sets.values()
    assert floor.lattice < 2 < dotted.lattice
    assert blurred.ratios.x[0] < 0.5 < dotted.ratios.x[0]
    assert blurred.cuts < 0.7
    assert floor.difference < blurred.difference
    assert floor.distance < blurred.distance


def test_table_and_json_hold_every_set(found: MapsComparison) -> None:
    table = found.to_markdown()
    assert all(table.count(f"| {name} |") == 2 for name in found.sets)
    columns = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert len(columns) == 2
    sets = json.loads(json.dumps(found.to_dict()))["sets"]
    assert len(sets["exported file"]["ratios"]["depth"]) == 30


def test_variograms_are_drawn(found: MapsComparison, tmp_path: Path) -> None:
    draw_variograms(found, tmp_path / "v.png")
    assert (tmp_path / "v.png").read_bytes()[:4] == b"\x89PNG"
