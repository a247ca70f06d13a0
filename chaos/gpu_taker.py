"""`python -m chaos.gpu_taker memory|compute AMOUNT DEVICE SECONDS`: presses on a GPU for a time.

AMOUNT is MiB (memory) or percent (compute). It ends with its parent too. It uses CUDA's driver interface, so
nothing but the driver is needed, and the driver frees everything when the process ends. Without a driver the
pressure is a note for the stand-in of NVML. (https://docs.nvidia.com/cuda/cuda-driver-api/)
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from chaos import nvml
from chaos.taker import LOOK_S, MB

_BUSY_MB = 256
_SLICE_S = 0.05
_CHUNK_MB = 256


class CudaError(OSError):
    """A call of the driver that failed."""


class Cuda:
    """The few calls that are needed."""

    def __init__(self, device: int) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        self._do("cuInit", 0)
        self._do("cuDeviceGet", ctypes.byref(handle), device)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self._do("cuCtxSetCurrent", context)

    def allocate(self, size: int) -> int:
        """Device memory, given back when the process ends."""
        place = ctypes.c_uint64()
        self._do("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(size))
        return place.value

    def fill(self, place: int, size: int) -> None:
        """Keeps the device busy for a moment."""
        self._do("cuMemsetD32_v2", ctypes.c_uint64(place), ctypes.c_uint(1), ctypes.c_size_t(size // 4))
        self._do("cuCtxSynchronize")

    def _do(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise CudaError(f"{name} failed with CUDA error {code}")


def main(arguments: list[str]) -> int:
    kind, amount, device, seconds = arguments[0], int(arguments[1]), int(arguments[2]), float(arguments[3])
    parent, end = os.getppid(), time.monotonic() + seconds

    def over() -> bool:
        return os.getppid() != parent or time.monotonic() >= end

    try:
        if nvml.load():
            pretend(kind, amount, over)
        else:
            cuda = Cuda(device)
            (hold if kind == "memory" else compute)(cuda, amount, over)
    except (OSError, nvml.NoGpu) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def hold(cuda: Cuda, amount_mb: int, over: Callable[[], bool]) -> None:
    """Holds that much of the device's memory."""
    for start in range(0, amount_mb, _CHUNK_MB):
        size = min(_CHUNK_MB, amount_mb - start) * MB
        cuda.fill(cuda.allocate(size), size)
    while not over():
        time.sleep(LOOK_S)


def compute(cuda: Cuda, percent: int, over: Callable[[], bool]) -> None:
    """Keeps the device busy for that share of each slice of time."""
    size = _BUSY_MB * MB
    place = cuda.allocate(size)
    while not over():
        begin = time.monotonic()
        while time.monotonic() - begin < _SLICE_S * percent / 100:
            cuda.fill(place, size)
        time.sleep(max(0.0, _SLICE_S * (1 - percent / 100)))


def pretend(kind: str, amount: int, over: Callable[[], bool]) -> None:
    """Tells the stand-in what this process would take."""
    note = Path(os.environ[nvml.STUB]) / str(os.getpid())
    try:
        note.write_text(f"{amount} 0\n" if kind == "memory" else f"0 {amount}\n", encoding="ascii")
        while not over():
            time.sleep(LOOK_S)
    finally:
        note.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
