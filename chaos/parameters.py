"""From `key=value` words to a fault with typed parameters. A mistake is one line that names the word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec

from chaos.errors import BadFault
from chaos.fault import Fault, kind_of

_SCALES: dict[str, dict[str, float]] = {
    "us": {"us": 1, "µs": 1, "ms": 1e3, "s": 1e6},
    "ms": {"us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3, "m": 6e4},
    "s": {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600},
    "mb": {"kb": 2**-10, "mb": 1, "gb": 2**10, "kib": 2**-10, "mib": 1, "gib": 2**10},
    "kb_s": {"kb/s": 1, "mb/s": 2**10, "kb_s": 1},
    "bytes": {"b": 1, "bytes": 1, "kb": 2**10, "mb": 2**20},
    "ppm": {"ppm": 1},
    "share": {"%": 0.01},
}
"""By the last word of a parameter's name: what may stand behind a number, and what it is worth."""
_EXAMPLES = {
    "us": "microseconds, like 500 or 500us",
    "ms": "milliseconds, like 100 or 100ms",
    "s": "seconds, like 10 or 10s",
    "mb": "MiB, like 512 or 2GB",
    "kb_s": "KiB a second, like 50 or 50KB/s",
    "bytes": "bytes, like 512 or 2KB",
    "ppm": "parts per million, like 200",
    "share": "a share of 1, like 0.5 or 50%",
}
_NUMBER = re.compile(r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-zµ%/_]*)")


def unit_of(parameter: str) -> str:
    """The unit that a parameter's name ends with, "" for none."""
    longest_first = sorted(_SCALES, key=len, reverse=True)
    return next((u for u in longest_first if parameter == u or parameter.endswith(f"_{u}")), "")


def make_fault(name: str, given: Mapping[str, object]) -> Fault:
    """The fault `name` with parameters as a document or a command line gives them. Raises BadFault."""
    kind = kind_of(name)
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, object] = {}
    for key, value in given.items():
        parameter = _field(kind, key)
        if parameter in values:
            raise BadFault(f"{name} {key}", "it is given twice", "keep one")
        values[parameter] = _scaled(name, parameter, value)
    for field in fields.values():
        if field.required and field.name not in values:
            raise BadFault(name, f"{field.name} is missing", f"add {field.name}={field.name.upper()}")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        text = str(error)
        where = re.search(r"\$\.(\w+)", text)
        what = text.split(" - at ", maxsplit=1)[0]
        place = f"{name} {where.group(1)}" if where else name
        raise BadFault(place, what[0].lower() + what[1:], f"see threenines chaos show {name}") from None


def parse_words(words: Sequence[str], where: str) -> dict[str, object]:
    """`key=value` words as a mapping. Raises BadFault."""
    found: dict[str, object] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key or not value:
            raise BadFault(f"{where} {word!r}", "it is no parameter", "write key=value")
        if key in found:
            raise BadFault(f"{where} {key}", "it is given twice", "keep one")
        found[key] = value
    return found


def parse_duration_s(text: str, where: str) -> float:
    """Seconds from "10", "10s", "250ms", "5m". Raises BadFault."""
    value = _scaled(where, "duration_s", text)
    if not isinstance(value, float) or not 0 < value < 1e7:
        raise BadFault(where, f"is {text!r}", "give a time like 10s or 250ms")
    return value


def _field(kind: type[Fault], key: str) -> str:
    """The field that `key` names: by its whole name, or without its unit."""
    names = [field.name for field in msgspec.structs.fields(kind)]
    if key in names:
        return key
    for name in names:
        unit = unit_of(name)
        if unit and name == f"{key}_{unit}":
            return name
    near = difflib.get_close_matches(key, names, n=1)
    mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    raise BadFault(f"{kind.name} {key!r}", "it is no parameter of this fault", mend)


def _scaled(fault: str, field: str, value: object) -> object:
    """A number in the unit of its field's name."""
    unit = unit_of(field)
    if isinstance(value, str) and unit:
        match = _NUMBER.fullmatch(value.strip())
        scales = _SCALES[unit]
        if match is None or (match.group(2) and match.group(2).lower() not in scales):
            raise BadFault(f"{fault} {field}", f"is {value!r}", f"give {_EXAMPLES[unit]}")
        scale = scales[match.group(2).lower()] if match.group(2) else 1.0
        return float(Decimal(match.group(1)) * Decimal(repr(scale)))  # 2.022 s are 2022 ms exactly
    return value
