"""`threenines call`: one method of one agent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from threenines.errors import FAIL, NOT_PROVEN, UserError, one_line

EXAMPLES = (
    "threenines call request-coordinator ask text='where is the train?' depth=2",
    'threenines call episodic-memory remember \'{"key": "train", "value": "platform 4"}\'',
    "threenines call request-coordinator _ping",
    'echo \'{"text": "hello"}\' | threenines call request-coordinator ask -',
    "threenines call request-coordinator stats --json | jq .handled",
)


def call(
    name: Annotated[str, typer.Argument(help="The agent.")],
    method: Annotated[str, typer.Argument(help="Its method; `_describe` lists them.")],
    body: Annotated[
        list[str] | None, typer.Argument(help="JSON, or key=value …, or - to read JSON from standard input.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.001, max=300)] = 5.0,
    host: Annotated[str | None, typer.Option(help="Call from this host instead of the first one.")] = None,
    stack: Annotated[str, typer.Option(help="The environment: infra/Pulumi.STACK.yaml.")] = "local",
    json: Annotated[bool, typer.Option("--json", help="Print the answer on one line.")] = False,
) -> None:
    """Call a method of an agent and print its answer.

    The call goes through hostd of a host of the stack, as any other caller's would. Exit status 0 for an
    answer, 1 when the call was refused, 2 when nobody knows whether it ran.
    """
    from urllib.parse import quote

    from services.agent.errors import DEFINITE
    from threenines.commands._api import ask_hostd, failure_of, print_json

    payload = payload_of(body or [], sys.stdin.buffer.read)
    path = f"/v1/call/{quote(name, safe='')}/{quote(method, safe='')}?timeout_s={timeout:g}"
    status, answer, _ = ask_hostd(stack, host, "POST", path, payload, timeout_s=timeout)
    failure = failure_of(status, answer)
    if failure is None:
        print_json(answer, compact=json)
        return
    definite = failure.code in DEFINITE
    certainty = "" if definite else " (nobody knows whether it ran)"
    mend = _MENDS.get(failure.code, "see `threenines status`")
    line = f"threenines: {name}.{method}: {failure.code}: {failure.message}{certainty}; {mend}"
    print(one_line(line), file=sys.stderr)
    raise typer.Exit(FAIL if definite else NOT_PROVEN)


_MENDS = {
    "not-found": "see `threenines status --agents` for the names",
    "no-method": "call its method `_describe` for a list",
    "bad-request": "mend the arguments",
    "deadline": "give it more time with --timeout",
}


def payload_of(arguments: list[str], read_stdin: Callable[[], bytes]) -> bytes:
    """The body of the call as JSON. Raises UserError for what is neither JSON nor key=value."""
    import msgspec

    if not arguments:
        return b"null"
    if len(arguments) == 1:
        (only,) = arguments
        text = read_stdin() if only == "-" else only.encode()
        try:
            msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            if only == "-" or "=" not in only or only[:1] in '{["':
                where = "standard input" if only == "-" else "argument"
                raise UserError(where, f"is not JSON: {error}", "give JSON or key=value pairs") from None
        else:
            return bytes(text)
    pairs: dict[str, object] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise UserError(f"argument {argument!r}", "is no key=value", "give JSON alone or key=value pairs")
        if key in pairs:
            raise UserError(f"argument {argument!r}", f"gives {key} twice", "give each key once")
        try:
            pairs[key] = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            pairs[key] = value
    return msgspec.json.encode(pairs)
