from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
import pytest_asyncio

from services.registry.etcd import EtcdClient
from services.registry.keys import Keys
from tests.registry.etcd_cluster import EtcdCluster, etcd_binary

_stacks = count(1)


def _need_etcd() -> None:
    if etcd_binary() is None:
        pytest.skip("no etcd here; `make setup` brings it")


@pytest.fixture(scope="session")
def single_etcd() -> Iterator[EtcdCluster]:
    """One member, shared: tests keep to their own prefix (`keys`)."""
    _need_etcd()
    with EtcdCluster(1) as cluster:
        yield cluster


@pytest.fixture
def three_etcd() -> Iterator[EtcdCluster]:
    """Three members of one's own, to be killed and frozen."""
    _need_etcd()
    with EtcdCluster(3) as cluster:
        yield cluster


@pytest.fixture
def keys() -> Keys:
    return Keys(f"test-{next(_stacks)}")


@pytest_asyncio.fixture
async def etcd(single_etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    client = single_etcd.client(timeout_s=5.0)
    try:
        await single_etcd.ready(client)
        yield client
    finally:
        await client.close()
