"""`python -m chaos.nvml DEVICE`: what NVML says of a GPU, as one JSON line.

Where there is no driver, a stand-in of ours is loaded under the unmodified nvidia-ml-py, and the answer says
`simulated`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import msgspec

from chaos.messages import GpuView

MB = 1 << 20
SONAME = "libnvidia-ml.so.1"
STUB = "THREENINES_NVML_STUB"
"""The stand-in's folder: a file for each process that presses on the device."""
SAMPLE_S = 1.0
"""The longest time over which a driver samples utilisation (nvmlUtilization_t)."""
_SOURCE = Path(__file__).with_name("nvml_stub.c")


class NoGpu(Exception):
    """There is neither a driver nor a way to a stand-in for it."""


def load() -> bool:
    """Makes NVML loadable; whether it is the stand-in. Raises NoGpu."""
    if os.environ.get(STUB) is None:
        try:
            ctypes.CDLL(SONAME)
        except OSError:
            pass
        else:
            return False
    os.environ.setdefault(STUB, str(_pressures()))
    Path(os.environ[STUB]).mkdir(mode=0o700, parents=True, exist_ok=True)
    # Later loads of this name find the library that is already there (dlopen(3), SONAME).
    ctypes.CDLL(str(_built()))
    return True


def look(device: int) -> GpuView:
    """A device now. Raises NoGpu."""
    simulated = load()
    import pynvml

    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        if device >= count:
            raise NoGpu(f"there is no GPU {device}: NVML has {count}, counted from 0")
        handle = pynvml.nvmlDeviceGetHandleByIndex(device)
        name = pynvml.nvmlDeviceGetName(handle)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    except pynvml.NVMLError as error:
        raise NoGpu(f"device {device}: {error}") from None
    return GpuView(
        name=name if isinstance(name, str) else name.decode(),
        total_mb=int(memory.total) / MB,
        used_mb=int(memory.used) / MB,
        busy_percent=float(rates.gpu),
        simulated=simulated,
    )


def settled(device: int) -> GpuView:
    """A device now, without what loading the driver did to it just before. Raises NoGpu.

    A driver that nobody holds is loaded by the look itself, and the memory that it scrubs counts as busy time
    of a sample (nvmlDeviceGetUtilizationRates, note on ECC): then the next sample is the one that tells.
    """
    view = look(device)
    if view.busy_percent > 0 and not view.simulated:
        time.sleep(SAMPLE_S)
        view = look(device)
    return view


def _pressures() -> Path:
    """One folder for all hosts of this machine: they would share a real device too."""
    return Path(tempfile.gettempdir()) / f"threenines-gpu-{os.geteuid()}"


def _built() -> Path:
    """The stand-in as a library, compiled once for each form of its source. Raises NoGpu."""
    source = _SOURCE.read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threenines"
    library = cache / f"nvml-stub-{sha256(source).hexdigest()[:12]}" / SONAME
    if library.exists():
        return library
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NoGpu("there is no GPU driver, and no C compiler for a stand-in")
    library.parent.mkdir(parents=True, exist_ok=True)
    part = library.with_suffix(f".{os.getpid()}.part")
    command = (compiler, "-shared", "-fPIC", "-O1", f"-Wl,-soname,{SONAME}", "-o", str(part), str(_SOURCE))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise NoGpu(f"the stand-in for NVML cannot be built: {' '.join(done.stderr.split())[:300]}")
    part.replace(library)
    return library


def main() -> int:
    """Prints the view, or one line why there is none."""
    try:
        view = settled(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    except (NoGpu, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(view).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
