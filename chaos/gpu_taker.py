"""`python -m chaos.gpu_taker memory|compute AMOUNT SECONDS PARENT DEVICE`: presses on a GPU for a time.

AMOUNT is percent (compute), or MiB (memory): all that the process takes, its context included. DEVICE is
NVML's number. It ends with PARENT too. It uses CUDA's driver interface, so nothing but the driver is needed,
and the driver frees everything when the process ends. Without a driver the pressure is a note for the
stand-in of NVML.
(https://docs.nvidia.com/cuda/cuda-driver-api/)
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from chaos import nvml
from chaos.taker import LOOK_S, MB

_BUSY_MB = 256
_FILLS = 8
"""So many at a time: the device has the next one when one is done."""
_SLICE_S = 0.05
_CHUNK_MB = 256
_BLOCKING_SYNC = 4
"""CU_CTX_SCHED_BLOCKING_SYNC."""


class CudaError(OSError):
    """A call of the driver that failed."""


class Cuda:
    """The few calls that are needed."""

    def __init__(self, device: int) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        # CUDA counts the quickest first and only those it is shown, unless it is told to count as NVML does.
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        handle, context = ctypes.c_int(), ctypes.c_void_p()
        self._do("cuInit", 0)
        self._do("cuDeviceGet", ctypes.byref(handle), device)
        # Whoever waits for the device sleeps: pressure on a GPU is none on a processor.
        self._do("cuDevicePrimaryCtxSetFlags_v2", handle, _BLOCKING_SYNC)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self._do("cuCtxSetCurrent", context)

    def allocate(self, size: int) -> int:
        """Device memory, given back when the process ends."""
        place = ctypes.c_uint64()
        self._do("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(size))
        return place.value

    def fill(self, place: int, size: int, times: int = 1) -> None:
        """Keeps the device busy for a moment."""
        for _ in range(times):
            self._do("cuMemsetD32_v2", ctypes.c_uint64(place), ctypes.c_uint(1), ctypes.c_size_t(size // 4))
        self._do("cuCtxSynchronize")

    def _do(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            words = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(words))
            raise CudaError(f"{name}: {(words.value or b'unknown').decode()} (CUDA error {code})")


def main(arguments: list[str]) -> int:
    kind, amount, device, parent = arguments[0], int(arguments[1]), int(arguments[4]), int(arguments[3])
    end = time.monotonic() + float(arguments[2])

    def over() -> bool:
        return os.getppid() != parent or time.monotonic() >= end

    try:
        before = nvml.look(device)
        if before.simulated:
            pretend(kind, amount, over)
        elif kind == "memory":
            cuda = Cuda(device)
            own_mb = nvml.look(device).used_mb - before.used_mb
            hold(cuda, amount - max(0, round(own_mb)), over)
        else:
            compute(Cuda(device), amount, over)
    except (OSError, nvml.NoGpu) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def hold(cuda: Cuda, amount_mb: int, over: Callable[[], bool]) -> None:
    """Holds that much of the device's memory, beside what the process has there already."""
    for start in range(0, amount_mb, _CHUNK_MB):
        if over():
            return
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
            cuda.fill(place, size, _FILLS)
        time.sleep(max(0.0, _SLICE_S * (1 - percent / 100)))


def pretend(kind: str, amount: int, over: Callable[[], bool]) -> None:
    """Tells the stand-in what this process would take; the note counts as long as it is locked."""
    note = Path(os.environ[nvml.STUB]) / str(os.getpid())
    try:
        with note.open("w", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{amount} 0\n" if kind == "memory" else f"0 {amount}\n")
            file.flush()
            while not over():
                time.sleep(LOOK_S)
    finally:
        note.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
