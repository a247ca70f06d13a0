"""What `call` calls: ours, and the same thing over HTTP."""

from __future__ import annotations

import sys

import msgspec

from services.agent.sdk import Agent, method


class Document(msgspec.Struct):
    """About 1.9 KB on either wire."""

    text: str
    numbers: list[int]
    tags: dict[str, str]


def document() -> Document:
    """The body of every call."""
    return Document("x" * 1500, list(range(64)), {f"tag{n}": f"value{n}" for n in range(8)})


class EchoAgent(Agent):
    """Answers what it was sent."""

    @method(idempotent=True)
    async def echo(self, request: Document) -> Document:
        """The request, by way of a task of its own."""
        return request

    @method(idempotent=True)
    def echo_short(self, request: Document) -> Document:
        """The request, by a handler that needs no task."""
        return request


def main() -> None:
    """The baseline: an aiohttp server on a port of the loopback address, which it prints."""
    from aiohttp import web

    decoder = msgspec.json.Decoder(Document)

    async def echo(request: web.Request) -> web.Response:
        answer = decoder.decode(await request.read())
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")

    app = web.Application()
    app.router.add_post("/echo", echo)

    async def announce(app: web.Application) -> None:
        print("ready", flush=True)

    app.on_startup.append(announce)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
