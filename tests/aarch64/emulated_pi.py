"""An emulated Raspberry Pi: an arm64 Debian user space and arm64 wheels, run under qemu's user mode.

    python tests/aarch64/emulated_pi.py         # sets it up, and says where it lies

Everything is kept in ``UBQ_AARCH64_CACHE`` (default ``~/.cache/ubq/aarch64``), about 1.5 GB, and used again. There is
no chroot, so nothing here needs root; only installing qemu does. What cannot be had raises ``Unavailable``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ubq.export.runtimes import EXECUTORCH, ONNX, TORCHSCRIPT

QEMU = "qemu-aarch64-static"
DEBS = ("python3.11", "libpython3.11-stdlib", "libstdc++6", "libgcc-s1", "libgomp1", "libgfortran5", "zlib1g")
WHEELS = (
    *dict.fromkeys((*TORCHSCRIPT.packages, *ONNX.packages)),
    # what they import
    "typing-extensions", "sympy", "mpmath", "jinja2", "markupsafe", "networkx", "filelock", "fsspec",
    "flatbuffers", "protobuf", "packaging",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


class Unavailable(Exception):
    """The emulated Pi cannot be had here, and why."""


@dataclass(frozen=True)
class Board:
    """A Raspberry Pi as the kernel shows it in /proc/cpuinfo and /sys: what libraries choose their kernels by."""

    name: str
    cpu: str
    features: str
    part: str
    variant: str
    revision: int
    midr: str
    mhz: int
    l2: str
    l2_shared: bool


PI4 = Board(
    "Raspberry Pi 4", "cortex-a72", "fp asimd evtstrm crc32 cpuid", "0xd08", "0x0", 3, "0x00000000410fd083", 1800,
    "1024K", True,
)  # fmt: skip
PI5 = Board(
    "Raspberry Pi 5", "cortex-a76",
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    "0xd0b", "0x4", 1, "0x00000000414fd0b1", 2400, "512K", False,
)  # fmt: skip
BOARDS = (PI4, PI5)
CORES = 4


def cache_folder() -> Path:
    """Where everything is kept."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ubq" / "aarch64"
    return Path(os.environ.get("UBQ_AARCH64_CACHE", default))


class EmulatedPi:
    """Set up by the constructor where it is not there yet.

    Raises:
        Unavailable: qemu, Debian's packages or the wheels cannot be had.
    """

    def __init__(self) -> None:
        self.folder = cache_folder()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.qemu = _qemu()
        self.site = self._wheels("site", WHEELS)
        self.system = self._made("system", self._unpack_system)

    @cached_property
    def executorch_site(self) -> Path:
        """ExecuTorch's requirements and nothing else, set up when first asked for.

        Raises:
            Unavailable: the wheels cannot be had.
        """
        return self._wheels("executorch-site", EXECUTORCH.installed)

    def command(self, board: Board, *arguments: str, qemu: Sequence[str] = (), executorch: bool = False) -> list[str]:
        """The command that runs the Pi's Python with some arguments.

        Args:
            board: to be.
            arguments: of Python.
            qemu: another emulator and its options, such as a plugin.
            executorch: with its requirements instead of the others'.
        """
        root = self._root(board)
        site = self.executorch_site if executorch else self.site
        settings = {
            "LD_LIBRARY_PATH": f"{root}/usr/lib/aarch64-linux-gnu:{root}/lib/aarch64-linux-gnu",
            "PYTHONHOME": f"{root}/usr",
            "PYTHONPATH": str(site),
            "PYTHONNOUSERSITE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        words = [*(qemu or [self.qemu]), "-cpu", board.cpu, "-L", str(root)]
        words += [word for name, value in settings.items() for word in ("-E", f"{name}={value}")]
        return [*words, f"{root}/usr/bin/python3.11", *arguments]

    def run(
        self,
        board: Board,
        *arguments: str,
        cwd: Path | None = None,
        qemu: Sequence[str] = (),
        executorch: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run the Pi's Python, in an environment without anything of this machine's."""
        return subprocess.run(
            self.command(board, *arguments, qemu=qemu, executorch=executorch), cwd=cwd, capture_output=True, text=True,
            env={"HOME": "/tmp", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    def _made(self, name: str, make) -> Path:  # type: ignore[no-untyped-def]
        """A folder of the cache; it appears whole or not at all."""
        folder = self.folder / name
        if not folder.is_dir():
            new = self.folder / f".{name}.new"
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            make(new)
            new.rename(folder)
        return folder

    def _wheels(self, name: str, packages: Sequence[str]) -> Path:
        """Packages unpacked into a folder of their own; other versions get another one."""
        key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
        return self._made(f"{name}-{key}", lambda site: self._unpack_wheels(site, packages))

    def _unpack_wheels(self, site: Path, packages: Sequence[str]) -> None:
        wheels = site.with_name(f"{site.name}.wheels")
        platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_aarch64")]
        abis = [word for name in ("cp311", "abi3", "none") for word in ("--abi", name)]
        _call(
            sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", *platforms,
            "--python-version", "311", "--implementation", "cp", *abis, "--no-deps", "--dest", str(wheels), *packages,
        )  # fmt: skip
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        shutil.rmtree(wheels)

    def _unpack_system(self, root: Path) -> None:
        """Debian bookworm's arm64 packages from the mirrors that this machine's own apt uses."""
        if shutil.which("apt-get") is None:
            raise Unavailable("no apt-get here")
        apt = self.folder / "apt"
        for part in ("state/lists/partial", "cache/archives/partial", "etc/trusted.gpg.d"):
            (apt / part).mkdir(parents=True, exist_ok=True)
        (apt / "state" / "status").touch()
        listed = _call("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)").splitlines()
        sites = sorted({tuple(line.split()) for line in listed if line.split()[1:2] and "bookworm" in line.split()[1]})
        if not sites:
            raise Unavailable("this machine's apt knows no bookworm packages (apt-get update)")
        key = "/usr/share/keyrings/debian-archive-keyring.gpg"
        lines = [f"deb [arch=arm64 signed-by={key}] {site} {release} main\n" for site, release in sites]
        (apt / "etc" / "sources.list").write_text("".join(lines))
        settings = {
            "APT::Architecture": "arm64", "APT::Architectures::": "arm64", "Dir::State": f"{apt}/state",
            "Dir::State::status": f"{apt}/state/status", "Dir::Cache": f"{apt}/cache", "Dir::Etc": f"{apt}/etc",
            "Dir::Etc::sourceparts": "-", "Dir::Etc::parts": "-", "Dir::Etc::trustedparts": "/etc/apt/trusted.gpg.d",
            "APT::Install-Recommends": "false", "Acquire::Languages": "none", "Debug::NoLocking": "1",
            "APT::Sandbox::User": "",
        }  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        _call("apt-get", "-qq", *options, "update")
        _call("apt-get", "-qq", "-y", *options, "--download-only", "install", *DEBS)
        for deb in sorted((apt / "cache" / "archives").glob("*.deb")):
            _call("dpkg-deb", "-x", str(deb), str(root))

    def _root(self, board: Board) -> Path:
        """The system under the /proc and /sys of one board: qemu looks there first."""
        root = self.folder / board.cpu
        if not (root / "proc" / "cpuinfo").is_file():
            root.mkdir(exist_ok=True)
            for part in self.system.iterdir():
                if not (root / part.name).is_symlink():
                    (root / part.name).symlink_to(part)
            _write_board(root, board)
        return root


def _write_board(root: Path, board: Board) -> None:
    """What the kernel of the board shows of its processor."""
    cpus = root / "sys" / "devices" / "system" / "cpu"
    files = {cpus / name: "0-3" for name in ("possible", "present", "online")} | {cpus / "kernel_max": "255"}
    for core in range(CORES):
        cpu, mine, all_cores = cpus / f"cpu{core}", str(core), f"0-{CORES - 1}"
        files |= {cpu / "regs" / "identification" / "midr_el1": board.midr}
        files |= {cpu / "cpufreq" / "cpuinfo_max_freq": f"{board.mhz}000"}
        files |= {cpu / "cpufreq" / "cpuinfo_min_freq": "600000"}
        topology = {
            "physical_package_id": "0", "cluster_id": "0", "core_id": mine, "core_cpus_list": mine,
            "thread_siblings_list": mine, "package_cpus_list": all_cores, "core_siblings_list": all_cores,
            "cluster_cpus_list": all_cores, "package_cpus": "f", "core_siblings": "f",
        }  # fmt: skip
        files |= {cpu / "topology" / name: text for name, text in topology.items()}
        caches = (
            ("1", "Data", "32K", mine), ("1", "Instruction", "32K", mine),
            ("2", "Unified", board.l2, all_cores if board.l2_shared else mine),
        )  # fmt: skip
        for i, (level, kind, size, shared) in enumerate(caches):
            index = cpu / "cache" / f"index{i}"
            texts = {"level": level, "type": kind, "size": size, "shared_cpu_list": shared, "coherency_line_size": "64"}
            files |= {index / name: text for name, text in texts.items()}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    entry = (
        "processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: {b.features}\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: {b.variant}\nCPU part\t: {b.part}\nCPU revision\t: {b.revision}\n\n"
    )
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "cpuinfo").write_text("".join(entry.format(core=core, b=board) for core in range(CORES)))


def _qemu() -> str:
    if shutil.which(QEMU) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(
            ["apt-get", "-qq", "-y", "--no-install-recommends", "install", "qemu-user-static"],
            capture_output=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False,
        )  # fmt: skip
    found = shutil.which(QEMU)
    if found is None:
        raise Unavailable(f"{QEMU} is not installed (apt install qemu-user-static)")
    return found


def _call(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise Unavailable(f"{Path(command[0]).name} failed: {said[-1] if said else error}") from error
    return done.stdout


if __name__ == "__main__":
    print(EmulatedPi().folder)
