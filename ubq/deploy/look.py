"""What a machine is and has, as one JSON object. Run there by its own Python: ``python3 - < look.py``.

Standard library only, for any Python from 3.6 on: a machine that is too old must be able to say so.
"""

import contextlib
import json
import os
import platform
import struct
import subprocess
import sys

LIBRARIES = ("torch", "numpy", "onnxruntime", "executorch", "matplotlib")


def read(path: str) -> str:
    """First line of a file, without the zero byte of the device tree; empty where it cannot be read."""
    try:
        with open(path) as file:
            return file.readline().strip("\0\n ")
    except (OSError, ValueError):
        return ""


def versions() -> dict:
    """Installed libraries, without importing them: the wrong torch kills the process that imports it."""
    try:
        from importlib.metadata import PackageNotFoundError, version
    except ImportError:  # before Python 3.8
        return {}
    installed: dict = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed


def cpu_parts() -> list:
    """Part numbers of ARM cores, such as 0xd08 (Cortex-A72) and 0xd0b (Cortex-A76)."""
    try:
        with open("/proc/cpuinfo") as file:
            return sorted({line.split(":")[1].strip() for line in file if line.startswith("CPU part")})
    except (OSError, IndexError):
        return []


def throttled() -> object:
    """The firmware's throttling bits, or None where there is no such firmware."""
    text = read("/sys/devices/platform/soc/soc:firmware/get_throttled")
    if not text:
        try:
            done = subprocess.run(["vcgencmd", "get_throttled"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            text = done.stdout.decode().strip().partition("=")[2]
        except OSError:
            return None
    try:
        return int(text, 16)
    except ValueError:
        return None


def temperature() -> object:
    """Of the processor in degrees Celsius, or None."""
    text = read("/sys/class/thermal/thermal_zone0/temp")
    return int(text) / 1000 if text.lstrip("-").isdigit() else None


def memory_mb() -> int:
    """Physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1000000


def main() -> None:
    """Print what was found."""
    facts = {
        "python": list(sys.version_info[:3]),
        "executable": sys.executable,
        "bits": 8 * struct.calcsize("P"),
        "machine": platform.machine(),
        "model": read("/proc/device-tree/model"),
        "cpu_parts": cpu_parts(),
        "libraries": versions(),
        "memory_mb": memory_mb(),
        "temperature": temperature(),
        "throttled": throttled(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
