from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostd.mini import MiniStack, etcd_path


@pytest.fixture
def one_host() -> Iterator[MiniStack]:
    """A host of one's own, running."""
    if etcd_path() is None:
        pytest.skip("no etcd here; `make setup` brings it")
    with MiniStack() as stack:
        try:
            stack.start()
            yield stack
        except BaseException:
            print(*stack.logs(), sep="\n")
            raise


@pytest.fixture
def two_hosts() -> Iterator[MiniStack]:
    """Two hosts that share one etcd, running."""
    if etcd_path() is None:
        pytest.skip("no etcd here; `make setup` brings it")
    with MiniStack(("mainpc", "pc2")) as stack:
        try:
            stack.start()
            yield stack
        except BaseException:
            print(*stack.logs(), sep="\n")
            raise
