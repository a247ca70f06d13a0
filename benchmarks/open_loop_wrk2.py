"""wrk2's method as a reference: `python -m benchmarks.open_loop_wrk2 SOCKET CONNECTIONS PER_S SECONDS`.

Constant throughput as in https://github.com/giltene/wrk2 (README, "Constant throughput, correct latency
recording"): each connection has its share of the rate and a schedule of its own, `start + n / rate`; it sends
when the next request is due and the last answer is there, and a latency counts from when its request was due.
After a stall it sends one after the other until it has caught up. The program itself is C and HTTP; this one
speaks the agents' wire. Prints the latencies in nanoseconds, a line each.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

from benchmarks.open_loop_agent import NAME
from services.agent.wire import FrameDecoder, Request, encode, pack


def connection(path: str, start: float, per_s: float, seconds: float, found: list[int]) -> None:
    """One connection's part."""
    decoder = FrameDecoder()
    body = pack({"text": "x" * 100})
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(path)
        for number in range(int(seconds * per_s)):
            due = start + number / per_s
            if (wait_s := due - time.monotonic()) > 0:
                time.sleep(wait_s)
            stream.sendall(encode(Request(number + 1, NAME, NAME, 60_000, body)))
            while not list(decoder.feed(stream.recv(65536))):
                pass
            found.append(round((time.monotonic() - due) * 1e9))


def main() -> None:
    """All connections at once, their schedules spread evenly."""
    path, connections, per_s, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    found: list[list[int]] = [[] for _ in range(connections)]
    start = time.monotonic() + 0.2
    threads = [
        threading.Thread(
            target=connection, args=(path, start + n / per_s, per_s / connections, seconds, found[n])
        )
        for n in range(connections)
    ]
    print("ready", flush=True)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.writelines(f"{ns}\n" for part in found for ns in part)


if __name__ == "__main__":
    main()
