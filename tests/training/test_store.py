"""The checkpoint store: whole or not there, hashed, pruned."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ubq.errors import EXIT_STAGE_FAILED, CheckpointError, StageError
from ubq.training.store import CheckpointStore


def payload(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "weights": {"a": torch.full((3, 4), float(step)), "b": torch.arange(5, dtype=torch.int8)},
        "rng": torch.get_rng_state(),
        "phase": "observe",
        "list": [1, 2.5, None, True],
    }


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, warnings: list[str]) -> CheckpointStore:
    return CheckpointStore(tmp_path / "diffusion", warn=warnings.append)


def reopened(store: CheckpointStore) -> CheckpointStore:
    return CheckpointStore(store.folder, warn=store.warn)


def test_what_is_saved_comes_back(store: CheckpointStore) -> None:
    assert store.latest() is None
    store.save(10, payload(10))
    found = reopened(store).latest()
    assert found is not None
    step, loaded = found
    assert step == loaded["step"] == 10
    assert torch.equal(loaded["weights"]["a"], torch.full((3, 4), 10.0))
    assert loaded["weights"]["b"].dtype == torch.int8
    assert loaded["list"] == [1, 2.5, None, True]


def test_two_are_kept(store: CheckpointStore) -> None:
    for step in (5, 10, 100, 20):
        store.save(step, payload(step))
    assert store.steps() == [20, 100]
    assert sorted(p.name for p in store.folder.iterdir()) == ["step-100", "step-20"]


def test_fewer_than_two_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        CheckpointStore(tmp_path, keep=1)


def test_the_same_step_again_replaces_it(store: CheckpointStore) -> None:
    store.save(5, payload(1))
    store.save(5, payload(2))
    found = reopened(store).latest()
    assert found is not None
    assert (found[0], found[1]["step"]) == (5, 2)


def damage_flip(folder: Path) -> None:
    data = bytearray((folder / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "state.pt").write_bytes(data)


def damage_truncate(folder: Path) -> None:
    data = (folder / "state.pt").read_bytes()
    (folder / "state.pt").write_bytes(data[:-1])


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def damage_newer(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))


def damage_missing(folder: Path) -> None:
    (folder / "state.pt").unlink()


@pytest.mark.parametrize("damage", [damage_flip, damage_truncate, damage_manifest, damage_newer, damage_missing])
def test_a_damaged_one_is_passed_over_and_said_so(store: CheckpointStore, warnings: list[str], damage: Any) -> None:
    store.save(5, payload(5))
    damage(store.save(10, payload(10)))
    again = reopened(store)
    assert again.latest_step() == 5
    found = again.latest()
    assert found is not None
    assert found[0] == 5
    assert len(warnings) == 1
    assert "step-10 is damaged" in warnings[0]
    again.save(15, payload(15))  # the damaged one does not count among the two kept
    assert again.steps() == [5, 15]


def test_one_without_its_marker_does_not_exist(store: CheckpointStore) -> None:
    store.save(5, payload(5))
    (store.save(10, payload(10)) / "DONE").unlink()
    assert reopened(store).latest_step() == 5


def test_a_half_written_one_is_left_out_and_removed(store: CheckpointStore) -> None:
    store.save(5, payload(5))
    half = store.folder / ".tmp-step-10"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    assert reopened(store).latest_step() == 5
    store.save(15, payload(15))
    assert not half.exists()


def test_an_error_while_writing_leaves_the_one_before(store: CheckpointStore) -> None:
    store.save(5, payload(5))

    def full(_payload: dict[str, Any], file: Any) -> None:
        file.write(b"part")
        raise OSError(28, "No space left on device")

    failing = CheckpointStore(store.folder, dump=full)
    with pytest.raises(OSError, match="No space"):
        failing.save(10, payload(10))
    assert [p.name for p in store.folder.iterdir()] == ["step-5"]


def test_a_full_disk_under_torch_save_stays_a_full_disk(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.save turns an error of the file it writes to into a RuntimeError of its own."""
    store.save(5, payload(5))

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 1000:
                raise OSError(28, "No space left on device")
            return super().write(data)

    monkeypatch.setattr("ubq.training.store.open", Full, raising=False)
    with pytest.raises(OSError, match="No space") as caught:
        store.save(10, payload(10))
    assert caught.value.errno == 28
    assert [p.name for p in store.folder.iterdir()] == ["step-5"]


def test_too_little_space_is_said_before_writing(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(5, payload(5))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(StageError, match="too little disk space") as caught:
        store.save(10, payload(10))
    assert caught.value.exit_code == EXIT_STAGE_FAILED
    assert store.steps() == [5]


def test_code_in_a_checkpoint_is_never_run(store: CheckpointStore, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "touched",)

    store.save(5, {"weights": Evil()})
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        reopened(store).latest()
    assert not (tmp_path / "touched").exists()


def test_what_is_set_aside_can_be_brought_back_and_the_final_files_stay(store: CheckpointStore) -> None:
    assert store.set_aside({}) is None
    store.save(5, payload(5))
    store.save(10, payload(10))
    (store.folder / "final.pt").write_bytes(b"weights")
    (store.folder / ".tmp-step-15").mkdir()
    aside = store.set_aside({"lr": 1})
    assert sorted(p.name for p in store.folder.iterdir()) == ["final.pt", "superseded"]
    assert store.latest() is None
    store.save(3, payload(3))
    store.set_aside({"lr": 2})
    assert [facts for _folder, facts in reopened(store).superseded()] == [{"lr": 2}, {"lr": 1}]
    assert aside is not None
    store.bring_back(aside)
    found = reopened(store).latest()
    assert found is not None
    assert found[0] == found[1]["step"] == 10
    store.set_aside({"lr": 3})
    store.save(4, payload(4))
    store.clear()
    assert [p.name for p in store.folder.iterdir()] == ["final.pt"]
    assert store.latest() is None


def test_rows_are_made_durable_before_it_counts(tmp_path: Path) -> None:
    seen: list[list[int]] = []
    store = CheckpointStore(tmp_path, before_commit=lambda: seen.append(CheckpointStore(tmp_path).steps()))
    store.save(5, {})
    store.save(10, {})
    assert seen == [[], [5]]


PRIVATE = """
import sys
from pathlib import Path
import torch
from ubq.training.store import CheckpointStore

def private() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024

store = CheckpointStore(Path(sys.argv[1]))
store.save(1, {"weights": torch.zeros(25_000_000)})
store = CheckpointStore(store.folder)
before = private()
step, loaded = store.latest()
assert loaded["weights"].sum() == 0
print(private() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_checkpoint_is_not_read_into_memory_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PRIVATE, str(tmp_path / "diffusion")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) < 20_000_000
