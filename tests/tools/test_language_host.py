"""The language host: handshake, a program's run, and a quiet leave."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import empty_pb2
from pulumi.runtime.proto import language_pb2, language_pb2_grpc

from infra.tools.language_host import entry_point
from infra.tools.launchers import LANGUAGE, PROVIDER, launcher_texts, write_launchers

PATIENCE_S = 30.0


@pytest.fixture
def host() -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "infra.tools.language_host", "-tracing=x", "127.0.0.1:1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield child
    child.kill()
    child.communicate(timeout=PATIENCE_S)


@pytest.fixture
def runtime(host: subprocess.Popen[str]) -> Iterator[language_pb2_grpc.LanguageRuntimeStub]:
    assert host.stdout is not None
    with grpc.insecure_channel(f"127.0.0.1:{int(host.stdout.readline())}") as channel:
        yield language_pb2_grpc.LanguageRuntimeStub(channel)


def test_it_answers_the_engine(runtime: language_pb2_grpc.LanguageRuntimeStub) -> None:
    request = language_pb2.LanguageHandshakeRequest(engine_address="127.0.0.1:2")
    runtime.Handshake(request, timeout=PATIENCE_S)
    assert runtime.GetPluginInfo(empty_pb2.Empty(), timeout=PATIENCE_S).version.startswith("3.")
    about = runtime.About(language_pb2.AboutRequest(), timeout=PATIENCE_S)
    assert about.executable == sys.executable
    listed = runtime.GetProgramDependencies(language_pb2.GetProgramDependenciesRequest(), timeout=PATIENCE_S)
    assert "pulumi" in {dependency.name for dependency in listed.dependencies}
    answers = list(runtime.InstallDependencies(language_pb2.InstallDependenciesRequest(), timeout=PATIENCE_S))
    assert b"make setup" in answers[0].stdout
    assert not runtime.RuntimeOptionsPrompts(language_pb2.RuntimeOptionsRequest(), timeout=PATIENCE_S).prompts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_leaves_quietly(
    host: subprocess.Popen[str], runtime: language_pb2_grpc.LanguageRuntimeStub, number: signal.Signals
) -> None:
    runtime.About(language_pb2.AboutRequest(), timeout=PATIENCE_S)
    host.send_signal(number)
    out, err = host.communicate(timeout=PATIENCE_S)
    assert (host.returncode, out, err) == (0, "", "")


def test_it_leaves_when_the_engine_says_so(
    host: subprocess.Popen[str], runtime: language_pb2_grpc.LanguageRuntimeStub
) -> None:
    runtime.Cancel(empty_pb2.Empty(), timeout=PATIENCE_S)
    assert host.wait(PATIENCE_S) == 0


def test_it_leaves_when_the_engine_has_died() -> None:
    host = "[sys.executable, '-m', 'infra.tools.language_host', 'x:1']"
    script = f"import subprocess, sys; subprocess.Popen({host}, stdout=subprocess.PIPE).stdout.readline()"
    # The host inherits stderr and holds it open: the pipe ends when the host has left.
    done = subprocess.run(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, timeout=PATIENCE_S, check=True
    )
    assert done.stderr == b""


def test_by_hand_it_says_what_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.tools.language_host"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 64
    assert done.stderr.startswith("threenines: language host: no engine address was given; ")


@pytest.mark.parametrize("name", ["", ".", "sub", "sub/__main__.py"])
def test_entry_points(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / "__main__.py").touch()
    expected = tmp_path / ("sub/__main__.py" if "sub" in name else "__main__.py")
    assert entry_point(tmp_path, name).resolve() == expected


def test_launchers_start_our_interpreter(tmp_path: Path) -> None:
    echo = tmp_path / "python"
    echo.write_text('#!/bin/sh\necho "$PYTHONPATH|$*"\n')
    echo.chmod(0o755)
    write_launchers(tmp_path / "bin", launcher_texts(Path("/root/of/it"), echo, None))

    def run(name: str, **env: str) -> str:
        argv = [str(tmp_path / "bin" / name), "a b", "c"]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout

    assert run(LANGUAGE) == "/root/of/it|-u -m infra.tools.language_host a b c\n"
    assert run(LANGUAGE, PYTHONPATH="/p") == "/root/of/it:/p|-u -m infra.tools.language_host a b c\n"
    assert run(PROVIDER) == "|-u -m pulumi.dynamic a b c\n"
    assert run(PROVIDER, PULUMI_PYTHON_CMD="/bin/echo") == "-u -m pulumi.dynamic a b c\n"


def test_an_official_host_is_preferred(tmp_path: Path) -> None:
    write_launchers(tmp_path, launcher_texts(tmp_path, Path("/python"), None))
    assert {file.name for file in tmp_path.iterdir()} == {LANGUAGE, PROVIDER}
    write_launchers(tmp_path, launcher_texts(tmp_path, Path("/python"), Path("/opt/pulumi") / LANGUAGE))
    assert {file.name for file in tmp_path.iterdir()} == {PROVIDER}, "ours gives way"
