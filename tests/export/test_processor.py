"""On which processors int8 sums are clipped, and what is chosen there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ubq.runtime.processor import adds_in_32_bits, exact_engine


@pytest.mark.parametrize(
    ("machine", "processors", "exact"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512f avx512_vnni\n", True),
        ("x86_64", "flags\t\t: fpu avx2 avx_vnni\n", True),
        ("x86_64", "flags\t\t: fpu avx avx2 avx512f\n", False),
        ("AMD64", None, False),
        ("aarch64", "Features\t: fp asimd asimddp\n", True),
        ("arm64", None, True),
    ],
)
def test_where_sums_of_products_are_not_clipped(
    machine: str, processors: str | None, exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    file = tmp_path / "cpuinfo"
    if processors is not None:
        file.write_text(processors)
    assert adds_in_32_bits(file) is exact


@pytest.mark.parametrize(
    ("exact", "wanted", "engine"),
    [
        (False, "x86", "qnnpack"),
        (False, "onednn", "qnnpack"),
        (False, "fbgemm", "fbgemm"),
        (False, "qnnpack", "qnnpack"),
        (True, "x86", "x86"),
    ],
)
def test_engines_that_clip_are_passed_over(
    exact: bool, wanted: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ubq.runtime.processor.adds_in_32_bits", lambda: exact)
    assert exact_engine(wanted) == engine
