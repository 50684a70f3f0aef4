"""What is refused, and the line that fixes it: architecture, Python, versions of PyTorch, ssh's own words, targets."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ubq.deploy import look
from ubq.deploy.machine import Machine, choose_runtime, refuse_unfit, throttling, torch_problem
from ubq.deploy.ssh import connection_error
from ubq.deploy.target import Target, parse_target
from ubq.errors import PreflightError, StageError, UsageError
from ubq.export.runtimes import EXECUTORCH, ONNX, PI_TORCH, TORCHSCRIPT

PI4 = Machine(
    python=(3, 11, 2), executable="/home/pi/ubq-pi/bin/python", bits=64, machine="aarch64",
    model="Raspberry Pi 4 Model B Rev 1.4", cpu_parts=["0xd08"], libraries={"torch": PI_TORCH, "numpy": "2.4.6"},
    memory_mb=3800, temperature=48.2, throttled=0,
)  # fmt: skip
PI5 = replace(PI4, cpu_parts=["0xd0b"], model="Raspberry Pi 5 Model B Rev 1.0")
X86 = replace(PI4, machine="x86_64", cpu_parts=[], model="")


def with_torch(machine: Machine, version: str) -> Machine:
    return replace(machine, libraries={"torch": version, "numpy": "2.4.6"})


@pytest.mark.parametrize(
    ("machine", "version", "words"),
    [
        (PI4, PI_TORCH, ""),
        (PI4, "2.8.0", ""),
        (PI4, "2.10.0", "illegal instruction"),
        (PI4, "2.10.1+cpu", "illegal instruction"),
        (PI5, "2.10.0", ""),
        (PI4, "2.11.0", "CUDA build"),
        (PI5, "2.13.0", "CUDA build"),
        (PI5, "2.13.0+cu130", "CUDA build"),
        (PI5, "2.13.0+cpu", ""),
        (X86, "2.13.0", ""),
        (X86, "2.10.0", ""),
        (PI4, "strange", ""),
    ],
)
def test_versions_of_pytorch_known_to_fail(machine: Machine, version: str, words: str) -> None:
    found = torch_problem(with_torch(machine, version))
    assert words in found
    assert bool(found) == bool(words)
    if not words:
        refuse_unfit(with_torch(machine, version), TORCHSCRIPT, "pi@pi", "")
        return
    with pytest.raises(PreflightError, match=words) as error:
        refuse_unfit(with_torch(machine, version), TORCHSCRIPT, "pi@pi", "")
    assert f"pip install torch=={PI_TORCH} numpy==" in error.value.fix
    assert error.value.exit_code == 3


def test_another_runtime_does_not_mind_a_bad_pytorch() -> None:
    both = {"torch": "2.10.0", "numpy": "2.4.6", "onnxruntime": "1.32.0"}
    refuse_unfit(replace(PI4, libraries=both), ONNX, "pi", "")


def test_executorch_is_for_a_raspberry_pi_5() -> None:
    installed = dict(package.split("==") for package in EXECUTORCH.packages)
    refuse_unfit(replace(PI5, libraries=installed), EXECUTORCH, "pi", "")
    with pytest.raises(PreflightError, match="illegal instruction on Raspberry Pi 4 Model B") as error:
        refuse_unfit(replace(PI4, libraries=installed), EXECUTORCH, "pi", "")
    assert "--runtime onnx" in error.value.fix
    with pytest.raises(PreflightError, match="lacks executorch"):
        refuse_unfit(replace(PI5, libraries={}), EXECUTORCH, "pi", "")


def test_the_fast_runtime_is_taken_installed_or_not() -> None:
    assert choose_runtime(PI4, [ONNX, TORCHSCRIPT]) is ONNX, "the fast one, though PyTorch is what is installed"
    assert choose_runtime(replace(PI4, libraries={"onnxruntime": "1", "torch": "2"}), [ONNX, TORCHSCRIPT]) is ONNX
    assert choose_runtime(replace(PI4, libraries={}), [ONNX, TORCHSCRIPT]) is ONNX
    both = {"executorch": "1.1.0", "torch": "2.10.0"}
    assert choose_runtime(replace(PI5, libraries=both), [EXECUTORCH, TORCHSCRIPT]) is EXECUTORCH
    assert choose_runtime(replace(PI4, libraries=both), [EXECUTORCH, TORCHSCRIPT]) is TORCHSCRIPT
    assert choose_runtime(PI4, [EXECUTORCH]) is EXECUTORCH  # asked for by name: refused with the reason


def test_a_missing_library_is_installed_with_the_python_that_was_given() -> None:
    bare = replace(PI4, libraries={})
    with pytest.raises(PreflightError, match="lacks torch, numpy") as error:
        refuse_unfit(bare, TORCHSCRIPT, "pi@pi", "/opt/my python")
    assert error.value.fix.startswith("ssh pi@pi '/opt/my python -m pip install")
    with pytest.raises(PreflightError) as error:
        refuse_unfit(bare, TORCHSCRIPT, "pi@pi", "")
    assert "python3 -m venv ~/ubq-pi && ~/ubq-pi/bin/pip install" in error.value.fix


SSH = {
    "ssh: Could not resolve hostname pi: Name or service not known": ("no machine of the name pi", 3),
    "ssh: connect to host pi port 22: Connection refused": ("no way to pi: connection refused", 3),
    "ssh: connect to host pi port 22: No route to host": ("no way to pi: no route to host", 3),
    "ssh: connect to host pi port 22: Connection timed out": ("no way to pi: timed out", 3),
    "me@pi: Permission denied (publickey,password).": ("does not let me@pi in", 3),
    "Received disconnect from 10.0.0.2 port 22:2: Too many authentication failures": ("does not let me@pi in", 3),
    "Host key verification failed.": ("host key of pi is not known", 3),
    "No ED25519 host key is known for pi and you have requested strict checking.": ("host key of pi is not known", 3),
    "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.": ("another host key", 3),
    "client_loop: send disconnect: Broken pipe": ("connection to pi broke", 1),
    "Timeout, server pi not responding.": ("connection to pi broke", 1),
    "": ("connection to pi broke", 1),
}


@pytest.mark.parametrize("said", SSH)
def test_what_ssh_says_is_told_in_one_line_with_what_fixes_it(said: str) -> None:
    words, code = SSH[said]
    error = connection_error(said, "me@pi")
    assert words in error.message
    assert error.exit_code == code
    assert isinstance(error, StageError if code == 1 else PreflightError)
    assert error.fix
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("pi@raspberrypi.local:/home/pi/ubq", Target("pi@raspberrypi.local", "/home/pi/ubq")),
        ("pi:ubq", Target("pi", "ubq")),
        ("pi@host:~/a b", Target("pi@host", "a b")),
        ("pi@host:~", Target("pi@host", ".")),
        ("pi@[fe80::1%eth0]:/x", Target("pi@fe80::1%eth0", "/x")),
        ("host:-rf", Target("host", "./-rf")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    "text", ["", "pi", "pi@host", "pi@host:", ":x", "-oProxyCommand=x:y", "a b:c", "me@-x:y", "h:a\nb"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no target"):
        parse_target(text)


def test_throttling_bits_are_spelled_out() -> None:
    assert throttling(0) == throttling(None) == []
    assert throttling(0x50005) == [
        "under-voltage", "throttled", "under-voltage since the start", "was throttled",
    ]  # fmt: skip


def test_the_look_at_a_machine_needs_no_library() -> None:
    script = Path(look.__file__).read_text()
    done = subprocess.run([sys.executable, "-I", "-S", "-"], input=script, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert set(found) == set(Machine.__dataclass_fields__)
    assert found["libraries"] == {}
    assert found["python"] == list(sys.version_info[:3])
    assert found["memory_mb"] > 100
