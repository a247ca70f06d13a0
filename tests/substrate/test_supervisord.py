"""The poller of a host's supervisor."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from infra.substrates.supervisord import LenientPoller


@pytest.fixture
def poller() -> LenientPoller:
    return LenientPoller(SimpleNamespace(logger=None))


def test_a_descriptor_in_error_is_let_go(poller: LenientPoller) -> None:
    """Of a pipe whose reader is gone poll says POLLERR, at once and for ever."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        poller.register_readable(writer)
        assert poller.poll(30) == ([], [])
        assert poller.readables == set()
        assert poller.poll(0.001) == ([], [])
    finally:
        os.close(writer)


def test_what_can_be_read_or_written_is_told_and_stays(poller: LenientPoller) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        poller.register_readable(reader)
        poller.register_writable(writer)
        assert poller.poll(30) == ([reader], [writer])
        os.close(reader)
        # A broken pipe counts as writable: who writes learns of it.
        poller.unregister_readable(reader)
        assert poller.poll(30) == ([], [writer])
        assert poller.writables == {writer}
    finally:
        os.close(writer)
