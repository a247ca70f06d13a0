"""Requests in, answers out: what all routes of the API share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from infra.topology import AgentSpec
from services.hostd.access import ApiError, Right, require
from services.hostd.metrics import CONTENT_TYPE
from services.hostd.runner import CannotStart
from services.registry.etcd_types import EtcdError
from services.registry.model import Instance, InstanceState
from services.registry.select import ANYONE, Want

BODY_LIMIT_S = 10.0

log = logging.getLogger("threenines.hostd")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AgentsAnswer(msgspec.Struct, frozen=True):
    agents: list[Instance]
    revision: int
    stale: bool


class DefinitionsAnswer(msgspec.Struct, frozen=True):
    homes: dict[str, str]


class AgentAnswer(msgspec.Struct, frozen=True):
    definition: AgentSpec | None
    instances: tuple[Instance, ...]


class StartedAnswer(msgspec.Struct, frozen=True):
    name: str
    host: str
    incarnation: int
    state: str


class TargetGroup(msgspec.Struct, frozen=True):
    targets: tuple[str, ...]
    labels: dict[str, str]


def guarded(right: Right, handler: Answer) -> Answer:
    """A handler that only callers with `right` reach."""

    async def checked(request: web.Request) -> web.StreamResponse:
        require(request, right)
        return await handler(request)

    return checked


@web.middleware
async def errors_as_json(request: web.Request, handler: Answer) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return error_answer(error.status, error.code, error.message)
    except web.HTTPException as error:
        return error_answer(error.status, "not-found" if error.status == 404 else "bad-request", error.reason)
    except CannotStart as error:
        return error_answer(422, "bad-request", str(error))
    except EtcdError as error:
        if error.definite:
            return error_answer(503, "unavailable", f"etcd: {error}")
        return error_answer(504, "indeterminate", f"etcd: {error}")
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return error_answer(500, "internal", "see the log of hostd")


async def read_body(request: web.Request, limit_bytes: int) -> bytes:
    if (request.content_length or 0) > limit_bytes:
        raise ApiError(413, "too-large", f"body of {request.content_length} bytes, {limit_bytes} are allowed")
    try:
        async with asyncio.timeout(BODY_LIMIT_S):
            body = await request.read()
    except TimeoutError:
        raise ApiError(408, "deadline", f"the body did not arrive within {BODY_LIMIT_S:g} s") from None
    if len(body) > limit_bytes:
        raise ApiError(413, "too-large", f"body of {len(body)} bytes, {limit_bytes} are allowed")
    return body


def number(request: web.Request, key: str, default: float, low: float, high: float) -> float:
    text = request.query.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high or value == float("inf"):
        raise ApiError(422, "bad-request", f"{key} must be a number from {low:g} to {high:g}")
    return value


def want_of(request: web.Request, default: Want, state_key: str) -> Want:
    """The filters of a query: `tag=k:v` (several), `category`, and the state under its key."""
    states = default.states
    wished = request.query.get(state_key)
    if wished == "any":
        states = ANYONE.states
    elif wished is not None:
        try:
            states = frozenset({InstanceState(wished)})
        except ValueError:
            known = ", ".join(InstanceState)
            raise ApiError(422, "bad-request", f"{state_key} must be any or one of {known}") from None
    tags: dict[str, str] = {}
    for tag in request.query.getall("tag", []):
        key, colon, value = tag.partition(":")
        if not colon:
            raise ApiError(422, "bad-request", f"tag {tag[:64]!r} must have the form key:value")
        tags[key] = value
    return Want(states=states, tags=tags, category=request.query.get("category"))


def unknown(name: str) -> ApiError:
    return ApiError(404, "not-found", f"no agent {name[:64]!r} is known")


def as_json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", status=status)


def as_text(text: str) -> web.Response:
    return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})


def error_answer(status: int, code: str, message: str) -> web.Response:
    return as_json({"error": {"code": str(code), "message": message}}, status=status)
