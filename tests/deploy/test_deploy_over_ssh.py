"""``ubq deploy`` over a real sshd: what is there afterwards, and what a user is told when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import SHELL_PATH, Sshd
from toy_bundle import MODEL_BYTES

from ubq.cli import main
from ubq.export.bundle.folder import MODULES, Bundle
from ubq.export.manifest import sha256

SHARED = {"toy_info.txt", "deployment_guide.md", "generate.py", *MODULES, "manifest.json"}
FILES = SHARED | {"toy.pt", "requirements-torchscript.txt"}


def deploy(there: Path, bundle: Bundle, *options: str, runtime: str = "torchscript") -> int:
    words = ["deploy", f"pi:{there}", str(bundle.folder), "--runtime", runtime]
    return main([*words, *options, *(() if "--python" in options else ("--python", sys.executable))])


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def whole(there: Path, bundle: Bundle) -> bool:
    found = {path.name for path in there.iterdir()}
    return found == FILES and all(sha256(there / name) == sha256(bundle.folder / name) for name in FILES)


def put(bundle: Bundle, name: str, content: bytes) -> None:
    """Another content for a file of the bundle."""
    (bundle.folder / name).write_bytes(content)
    manifest = json.loads((bundle.folder / "manifest.json").read_text())
    entry = next(f for f in manifest["files"] if f["name"] == name)
    entry |= {"bytes": len(content), "sha256": sha256(bundle.folder / name)}
    (bundle.folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_arrives_whole_and_is_not_sent_twice(sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys) -> None:
    there = tmp_path / "home of pi" / "it's ubq"
    assert deploy(there, bundle, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert whole(there, bundle)
    assert {f["name"]: f["sent"] for f in first["files"]}["toy.pt"] == MODEL_BYTES
    assert first["runtime"] == "torchscript"
    assert first["machine"]["libraries"]["torch"]
    assert deploy(there, bundle, "--json") == 0
    assert [f["sent"] for f in json.loads(capsys.readouterr().out)["files"]] == [0] * len(FILES)


def test_a_file_that_was_tampered_with_is_replaced(sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys) -> None:
    there = tmp_path / "there"
    assert deploy(there, bundle) == 0
    content = bytearray((there / "toy.pt").read_bytes())
    content[MODEL_BYTES // 2] ^= 1
    (there / "toy.pt").write_bytes(content)
    capsys.readouterr()
    assert deploy(there, bundle, "--json") == 0
    sent = {f["name"]: f["sent"] for f in json.loads(capsys.readouterr().out)["files"]}
    assert {name for name, size in sent.items() if size} == {"toy.pt"}
    assert whole(there, bundle)


def test_a_file_that_is_changed_on_its_way_never_gets_its_name(
    sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys
) -> None:
    there = tmp_path / "there"
    assert deploy(there, bundle) == 0
    old = sha256(there / "toy.pt")
    put(bundle, "toy.pt", b"new" * 1000)
    sshd.shim("cat", "exec tr n m")
    assert deploy(there, bundle) == 1
    assert "toy.pt came out different on pi" in failure(capsys)
    assert sha256(there / "toy.pt") == old
    assert not (there / "toy.pt.part").exists()
    sshd.no_shims()
    assert deploy(there, bundle) == 0
    assert whole(there, bundle)


def test_an_interrupted_copy_goes_on_where_it_stopped(sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys) -> None:
    there = tmp_path / "there"
    arrived = 1_234_567
    # the session's own process dies while the model is on its way; the small files come through
    sshd.shim("cat", f'head -c {arrived} | tee /dev/null; [ "$(head -c 1 | wc -c)" = 0 ] || kill -9 $PPID')
    assert deploy(there, bundle) == 1
    error = failure(capsys)
    assert "the connection to pi broke" in error
    assert "the same command again" in error
    assert not (there / "toy.pt").exists()
    assert (there / "toy.pt.part").stat().st_size == arrived
    sshd.no_shims()
    assert deploy(there, bundle, "--json") == 0
    sent = {f["name"]: f["sent"] for f in json.loads(capsys.readouterr().out)["files"]}
    assert sent["toy.pt"] == MODEL_BYTES - arrived
    assert whole(there, bundle)


def test_a_part_of_something_else_is_not_gone_on_with(sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "toy.pt.part").write_bytes(b"\0" * 5000)
    assert deploy(there, bundle, "--json") == 0
    sent = {f["name"]: f["sent"] for f in json.loads(capsys.readouterr().out)["files"]}
    assert sent["toy.pt"] == MODEL_BYTES
    assert whole(there, bundle)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True
    ).returncode:  # fmt: skip
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_without_room_is_seen_before_anything_is_sent(
    sshd: Sshd, bundle: Bundle, small_disk: Path, capsys
) -> None:
    assert deploy(small_disk / "ubq", bundle) == 3
    assert "needs 4 MB and has 2 MB" in failure(capsys)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_keeps_nothing_half_copied(sshd: Sshd, bundle: Bundle, small_disk: Path, capsys) -> None:
    sshd.shim("df", "printf 'x\\nnone 9 9 9999999 1%% /\\n'")
    assert deploy(small_disk / "ubq", bundle) == 3
    assert "no space is left on pi" in failure(capsys)
    assert not [p for p in (small_disk / "ubq").iterdir() if p.name.startswith("toy.pt")]


def test_who_may_not_log_in_is_told_so(sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("UBQ_SSH", sshd.ssh("other_key"))
    assert deploy(tmp_path / "there", bundle) == 3
    error = failure(capsys)
    assert "does not let pi in" in error
    assert "ssh-copy-id pi" in error


@pytest.mark.parametrize(("key", "words"), [("", "is not known here"), ("other_key.pub", "another host key")])
def test_an_unknown_or_changed_host_key_stops_it(
    key: str, words: str, sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys
) -> None:
    sshd.trust((sshd.folder / key).read_text() if key else "")
    assert deploy(tmp_path / "there", bundle) == 3
    assert words in failure(capsys)
    assert not (tmp_path / "there").exists()
    assert key or not (sshd.folder / "known_hosts").read_text()  # nor was it taken on trust


def test_a_closed_port_is_no_way_to_the_machine(
    sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("UBQ_SSH", f"{sshd.ssh()} -p 1")
    assert deploy(tmp_path / "there", bundle) == 3
    assert "no way to pi: connection refused" in failure(capsys)


def test_a_32_bit_system_is_refused(sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys) -> None:
    sshd.shim("uname", "echo armv7l")
    assert deploy(tmp_path / "there", bundle) == 3
    assert "pi is armv7l" in failure(capsys)
    sshd.shim("uname", "echo aarch64")
    sshd.shim("getconf", "echo 32")
    assert deploy(tmp_path / "there", bundle) == 3
    assert "pi is aarch64 with a 32-bit system" in failure(capsys)
    assert not (tmp_path / "there").exists()


def test_a_missing_python_or_library_is_named_with_the_line_that_installs_it(
    sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys
) -> None:
    there = tmp_path / "there"
    assert deploy(there, bundle, "--python", "/nowhere/python") == 3
    assert "pi has no /nowhere/python" in failure(capsys)
    sshd.shim("bare-python", f'exec {sys.executable} -I -S "$@"')
    assert deploy(there, bundle, "--python", "bare-python") == 3
    error = failure(capsys)
    assert "lacks torch, numpy" in error
    assert "ssh pi 'bare-python -m pip install torch==2.9.1 numpy" in error
    assert deploy(there, bundle, "--python", "bare-python", runtime="onnx") == 3
    assert "lacks onnxruntime" in failure(capsys)
    assert not there.exists()


def test_a_folder_of_someone_else_is_refused(sshd: Sshd, bundle: Bundle, capsys) -> None:
    assert deploy(Path("/proc/ubq"), bundle) in (1, 3)  # root may write anywhere, but not make a process
    assert "/proc" in failure(capsys)


WITH_ONNX = """echo '{"python": [3, 11, 2], "executable": "pi-python", "bits": 64, "machine": "aarch64",
    "model": "Raspberry Pi 4", "cpu_parts": ["0xd08"], "libraries": {"numpy": "2.4.6", "onnxruntime": "1.32.0"},
    "memory_mb": 3800, "temperature": 51.5, "throttled": 5}'"""


def test_only_the_files_of_the_runtime_are_sent(sshd: Sshd, bundle: Bundle, tmp_path: Path) -> None:
    sshd.shim("pi-python", WITH_ONNX)
    there = tmp_path / "there"
    assert deploy(there, bundle, "--python", "pi-python", runtime="onnx") == 0
    of_onnx = {"toy.onnx", "toy.decoders.onnx", "requirements-onnx.txt"}
    assert {path.name for path in there.iterdir()} == SHARED | of_onnx


def test_what_lies_there_for_another_runtime_does_not_grow_old(sshd: Sshd, bundle: Bundle, tmp_path: Path) -> None:
    there = tmp_path / "there"
    assert deploy(there, bundle) == 0
    put(bundle, "toy.pt", b"trained again" * (MODEL_BYTES // 13))
    sshd.shim("pi-python", WITH_ONNX)
    assert deploy(there, bundle, "--python", "pi-python", runtime="onnx") == 0
    names = {path.name for path in there.iterdir()}
    assert names == FILES | {"toy.onnx", "toy.decoders.onnx", "requirements-onnx.txt"}
    assert all(sha256(there / name) == sha256(bundle.folder / name) for name in names)


TOLD = {"seconds_per_pair": 1.25, "peak_memory_mb": 310, "steps": 4}
PI4 = """echo '{"python": [3, 11, 2], "executable": "%s", "bits": 64, "machine": "aarch64", "model": "Raspberry Pi 4",
    "cpu_parts": ["0xd08"], "libraries": {"numpy": "2.4.6", "torch": "2.9.1"}, "memory_mb": 3800,
    "temperature": 51.6, "throttled": 5}'"""


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        (
            f"import json\nprint('noise')\nprint(json.dumps({TOLD}))",
            0,
            "Raspberry Pi 4: 1.25 s a pair, 4 steps, 310 MB",
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGILL)", 1, "illegal instruction"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 1, "too little memory"),
        ("import sys\nsys.exit('generate.py: the model does not offer 3 steps')", 1, "does not offer 3 steps"),
        ("print('no object')", 1, "sample run failed"),
    ],
)
def test_the_sample_run_tells_time_memory_and_heat_or_why_it_failed(
    script: str, code: int, words: str, sshd: Sshd, bundle: Bundle, tmp_path: Path, capsys
) -> None:
    put(bundle, "generate.py", script.encode())
    sshd.shim("pi-python", PI4 % sys.executable)
    assert deploy(tmp_path / "there", bundle, "--smoke", "--python", "pi-python") == code
    told = capsys.readouterr()
    assert words in (told.err if code else told.out)
    if code == 0:
        assert "temperature: 52 C" in told.out
        assert "throttling: under-voltage, throttled" in told.out
    assert whole(tmp_path / "there", bundle)  # what was copied stays, whatever the sample run says


def test_the_servers_path_is_the_one_that_is_tested(sshd: Sshd) -> None:
    """The shims would be in nobody's way otherwise, and the tests above would pass for nothing."""
    done = subprocess.run([*sshd.ssh().split(), "pi", "echo $PATH"], capture_output=True, text=True, check=True)
    folders = done.stdout.strip().split(":")  # the login shell may put some of its own first
    assert folders.index(str(sshd.shims)) < folders.index(SHELL_PATH.split(":")[0])
