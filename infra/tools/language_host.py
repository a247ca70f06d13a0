"""A Pulumi language host for Python programs, for machines without the official one.

The engine starts `pulumi-language-python [options] ENGINE_ADDRESS`, reads a port from the first line of its
standard output and calls the `pulumirpc.LanguageRuntime` service there. The SDK brings such a service for
programs that are functions (its Automation API); here the program is a folder with a `__main__.py`, as the
engine passes it. Packages are not installed by this host: the project's own set-up does that.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
from google.protobuf import empty_pb2
from pulumi.automation._server import LanguageServer
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

LARGEST_MESSAGE_BYTES = 400 * 1024 * 1024
"""What the engine itself allows for a message."""
ORPHAN_CHECK_S = 1.0
_THREADS = 8
_STOP_GRACE_S = 1.0


def main(argv: Sequence[str]) -> int:
    """Serve until SIGINT, SIGTERM, the engine's Cancel or the engine's death. Returns the exit status."""
    addresses = [argument for argument in argv if not argument.startswith("-")]
    if not addresses:
        print(
            "threenines: language host: no engine address was given; it is started by pulumi, not by hand",
            file=sys.stderr,
        )
        return 64
    stop = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    limits = [(f"grpc.max_{way}_message_length", LARGEST_MESSAGE_BYTES) for way in ("send", "receive")]
    server = grpc.server(ThreadPoolExecutor(max_workers=_THREADS), options=limits)
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(ProgramServer(addresses[-1], stop), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    engine = os.getppid()
    while not stop.wait(ORPHAN_CHECK_S):
        if os.getppid() != engine:
            break
    server.stop(_STOP_GRACE_S).wait()
    return 0


class ProgramServer(LanguageServer):
    """The service, for the program in the folder that each request names."""

    def __init__(self, engine_address: str, stop: threading.Event) -> None:
        super().__init__(_no_program)
        self._engine_address = engine_address
        self._stop = stop
        self._one_run = threading.Lock()

    def Run(self, request: Any, context: Any) -> Any:
        """Run the program in its folder, as `python FOLDER` would."""
        request.args[:] = [self._engine_address]
        folder = request.info.program_directory or request.pwd
        entry = entry_point(Path(folder), request.info.entry_point or request.program)
        with self._one_run:  # the program owns the working directory and sys.path while it runs
            os.chdir(folder)
            if folder not in sys.path:
                sys.path.insert(0, folder)
            self.program = lambda: _run_file(entry)
            answer = super().Run(request, context)  # type: ignore[no-untyped-call]  # the SDK has no types here
        # The SDK has told the engine of the error already; an answer that repeats it is shown twice.
        return language_pb2.RunResponse(bail=True) if answer.error else answer

    def Handshake(self, request: Any, context: Any) -> Any:
        """The engine says where it is; what came on the command line is the same address."""
        if request.engine_address:
            self._engine_address = request.engine_address
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        """The version of the SDK that runs the programs."""
        return plugin_pb2.PluginInfo(version=metadata.version("pulumi"))

    def GetProgramDependencies(self, request: Any, context: Any) -> Any:
        """The packages of this interpreter (what `pulumi about` lists)."""
        found = {d.name: d.version for d in metadata.distributions() if d.name}
        listed = [language_pb2.DependencyInfo(name=n, version=v) for n, v in sorted(found.items())]
        return language_pb2.GetProgramDependenciesResponse(dependencies=listed)

    def InstallDependencies(self, request: Any, context: Any) -> Iterator[Any]:
        """Nothing is installed from here; the engine shows who does."""
        yield language_pb2.InstallDependenciesResponse(stdout=b"packages come from make setup\n")

    def RuntimeOptionsPrompts(self, request: Any, context: Any) -> Any:
        """`pulumi new` has nothing to ask."""
        return language_pb2.RuntimeOptionsResponse()

    def Cancel(self, request: Any, context: Any) -> Any:
        """The engine wants this host to end."""
        self._stop.set()
        return empty_pb2.Empty()


def entry_point(folder: Path, name: str) -> Path:
    """The file to run: `name` below `folder`, or its `__main__.py` when that is a folder."""
    path = folder / (name or ".")
    return path / "__main__.py" if path.is_dir() else path


def _run_file(entry: Path) -> None:
    runpy.run_path(str(entry), run_name="__main__")


def _no_program() -> None:
    raise RuntimeError("no program was named")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
