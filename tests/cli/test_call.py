"""`threenines call`: what its arguments become."""

from __future__ import annotations

import json

import pytest

from threenines.commands.call import payload_of
from threenines.errors import UserError

GOOD = [
    ([], "", None),
    (["{}"], "", {}),
    (['{"a": [1]}'], "", {"a": [1]}),
    (["5"], "", 5),
    (['"text"'], "", "text"),
    (["text=hello"], "", {"text": "hello"}),
    (["text=a=b", "depth=2"], "", {"text": "a=b", "depth": 2}),
    (["text="], "", {"text": ""}),
    (["on=true", "list=[1,2]", "none=null"], "", {"on": True, "list": [1, 2], "none": None}),
    (["-"], '{"text": "piped"}', {"text": "piped"}),
]
BAD = [
    ["{"],
    ["word"],
    ["=x"],
    ["a=1", "word"],
    ["a=1", "a=2"],
    ['{"a": 1}', "b=2"],
    ["[" * 100_000],
    ["-"],
]


@pytest.mark.parametrize(("arguments", "stdin", "expected"), GOOD)
def test_good_arguments(arguments: list[str], stdin: str, expected: object) -> None:
    assert json.loads(payload_of(arguments, stdin.encode)) == expected


@pytest.mark.parametrize("arguments", BAD)
def test_bad_arguments_are_named(arguments: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        payload_of(arguments, lambda: b"no json")
    assert caught.value.exit_status == 64
    assert caught.value.mend
