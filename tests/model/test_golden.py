"""Upstream's numbers, array by array.

``UBQ_GOLDEN`` lists the files, colon separated; without it the two shared ones are read.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from golden import altered, differences, read_golden, reproduce

SHARED = Path(os.environ.get("UBQ_SHARED", Path(__file__).parents[3] / "shared"))
LISTED = [Path(p) for p in os.environ.get("UBQ_GOLDEN", "").split(":") if p]
FILES = LISTED or [SHARED / "upstream" / f"golden_{variant}.npz" for variant in ("paper", "fork")]


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    if not LISTED and not request.param.exists():
        pytest.skip(f"needs {request.param} (set UBQ_GOLDEN or UBQ_SHARED)")
    return read_golden(request.param)


def perturbed(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """A copy with one array moved by 1e-3 of its largest value (whole numbers by 1)."""
    array = arrays[name]
    step = 1 if array.dtype.kind in "iu" else 1e-3 * max(np.abs(array).max(), 1e-3)
    return {**arrays, name: np.asarray(array + step, dtype=array.dtype)}


def test_every_array_is_reproduced(golden: dict[str, np.ndarray]) -> None:
    assert differences(golden) == []
    assert altered(golden) == []


def test_a_perturbed_result_is_seen(golden: dict[str, np.ndarray]) -> None:
    results = [name for name in golden if "/out/" in name or "/buffer/" in name]
    assert len(results) >= 20
    ours = reproduce(golden)
    for name in results:
        assert any(d.startswith(name) for d in differences(perturbed(golden, name), ours)), name


def test_a_perturbed_weight_is_seen_in_the_results(golden: dict[str, np.ndarray]) -> None:
    """A sample of the convolutions' and linear layers' weights, each with its sign turned."""
    weights = [n for n in golden if "/state/" in n and n.endswith("weight") and golden[n].ndim > 1]
    # nothing reads upstream's classifier, nor the fork's time embedding
    dead = ["decoder.head"] + ([] if any("mid_block1.mlp" in n for n in golden) else ["time_mlp"])
    alive = [n for n in weights if not any(part in n for part in dead)]
    for name in random.Random(0).sample(alive, 12):
        assert differences({**golden, name: -golden[name]}), name


def test_duplicates_must_agree(golden: dict[str, np.ndarray]) -> None:
    for name in [n for n in golden if "module_list" in n][::20]:
        assert any("duplicate" in d for d in differences(perturbed(golden, name))), name


def test_any_perturbed_array_of_a_reference_file_is_seen(golden: dict[str, np.ndarray]) -> None:
    if LISTED:
        pytest.skip("only the shared files have known digests")
    for name in golden:
        assert altered(perturbed(golden, name)), name


def test_an_array_that_nothing_reads_is_seen(golden: dict[str, np.ndarray]) -> None:
    assert differences({**golden, "unet/extra/z": np.zeros(1, np.float32)}) == [
        "unet/extra/z: nothing was compared with it"
    ]
