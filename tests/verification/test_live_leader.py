"""Who leads etcd, asked of its members and moved, on a stack of two workers and a witness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.chaos import conftest
from tests.chaos.conftest import Standing
from verification.campaigns.stack_view import AskError, StackView

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]
standing = conftest.standing

MEMBERS = ("a", "b", "w")


@asynccontextmanager
async def view_of(standing: Standing) -> AsyncIterator[StackView]:
    stage = standing.stage()
    view = StackView(stage.substrate, ("a", "b"))
    try:
        yield view
    finally:
        await view.close()
        stage.close()


def test_the_leader_is_told_and_moved(standing: Standing) -> None:
    async def moved() -> None:
        async with view_of(standing) as view:
            for host in ("a", "a", "b", "w"):  # who leads already is left alone
                await view.lead(host, MEMBERS)
                assert await view.leader(MEMBERS) == host
                others = tuple(member for member in MEMBERS if member != host)
                assert await view.leader(others) is None

    asyncio.run(moved())


def test_without_a_leader_to_ask_nothing_is_moved(standing: Standing) -> None:
    async def refused() -> None:
        async with view_of(standing) as view:
            await view.lead("a", MEMBERS)
            with pytest.raises(AskError, match="no member of etcd leads"):
                await view.lead("w", ("b", "w"))

    asyncio.run(refused())
