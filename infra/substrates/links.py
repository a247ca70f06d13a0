"""Silent loss on the link of a host in a network namespace: nothing is refused, packets just do not arrive.

A classic BPF program on the root side of the host's veth pair decides packet by packet (tc-bpf(8), tc(8)
clsact), so existing connections are cut too, nothing on the host can undo it, and no other tool than iproute2
is needed. Neighbour discovery still passes: a host whose ARP fails would be told "no route" at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
from functools import cache
from pathlib import Path

from infra.substrates.base import Cut, Direction, SubstrateError
from infra.substrates.network import run_tool, tool_of

_SHOT, _UNSPEC = 2, 0xFFFFFFFF
"""TC_ACT_SHOT drops the packet, TC_ACT_UNSPEC asks the next filter (linux/pkt_cls.h)."""
_LDH_ABS, _LD_ABS, _JEQ, _JGT, _RET = 0x28, 0x20, 0x15, 0x25, 0x06
_RANDOM = 0xFFFFF000 + 56
"""SKF_AD_OFF + SKF_AD_RANDOM: a new random word for every packet (linux/filter.h)."""
_ETHERTYPE, _IPV4, _SOURCE, _DESTINATION = 12, 0x0800, 26, 30
_ATTACHED = {Direction.OUTGOING: "ingress", Direction.INCOMING: "egress"}
"""What a host sends comes in at the root side of its pair, and the other way round."""
_SHOWN = re.compile(r"bytecode '([0-9, ]+)'")

Instruction = tuple[int, int, int, int]


def program(direction: Direction, peer: str | None, share: float) -> tuple[Instruction, ...]:
    """The filter that drops `share` of the IPv4 packets to or from `peer` (an address), None: anyone.

    `direction` is OUTGOING or INCOMING, as the host sees it. Raises ValueError.
    """
    if direction is Direction.BOTH:
        raise ValueError("a filter has one direction")
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share} is not above 0 and at most 1")
    tests: list[tuple[int, int, int, bool]] = [(_LDH_ABS, _ETHERTYPE, _IPV4, True)]
    if peer is not None:
        offset = _DESTINATION if direction is Direction.OUTGOING else _SOURCE
        tests.append((_LD_ABS, offset, int(ipaddress.IPv4Address(peer)), True))
    if share < 1:
        # Dropped when the random word is below share * 2^32; at least 1, so that no share means "never".
        tests.append((_LD_ABS, _RANDOM, max(1, round(share * 2**32)) - 1, False))
    length = 2 * len(tests)
    made: list[Instruction] = []
    for number, (load, offset, value, equal) in enumerate(tests):
        away = length + 1 - (2 * number + 2)  # from behind the jump to the last instruction
        made.append((load, 0, 0, offset))
        made.append((_JEQ, 0, away, value) if equal else (_JGT, away, 0, value))
    return (*made, (_RET, 0, 0, _SHOT), (_RET, 0, 0, _UNSPEC))


def encode(instructions: tuple[Instruction, ...]) -> str:
    """The program as `tc` takes and shows it."""
    return ",".join((str(len(instructions)), *(" ".join(map(str, one)) for one in instructions)))


def decode(text: str, direction: Direction) -> tuple[str | None, float]:
    """Peer's address and share of a program that `encode` wrote. Raises ValueError for any other."""
    _, *rest = text.split(",")
    words = [tuple(int(word) for word in line.split()) for line in rest]
    peer, share = None, 1.0
    for load, jump in zip(words[::2], words[1::2], strict=True):
        if load[3] in (_SOURCE, _DESTINATION):
            peer = str(ipaddress.IPv4Address(jump[3]))
        elif load[3] == _RANDOM:
            share = (jump[3] + 1) / 2**32
    if encode(program(direction, peer, share)) != text.strip():
        raise ValueError(f"not one of ours: {text}")
    return peer, share


class Links:
    """The losses on one root-side link. Every method raises SubstrateError."""

    def __init__(self, device: str) -> None:
        self.device = device

    def cut(self, direction: Direction, peer: str | None, share: float) -> None:
        """Drops from now on; the same cut twice is one cut."""
        if not _has_qdisc(self.device):
            _tc("qdisc", "add", "dev", self.device, "clsact")
        for one in _single(direction):
            self._filter("replace", one, encode(program(one, peer, share)))

    def mend(self) -> bool:
        """Ends every loss; whether there was one."""
        if not _has_qdisc(self.device):
            return False
        _tc("qdisc", "delete", "dev", self.device, "clsact")
        return True

    def mend_one(self, direction: Direction, peer: str | None, share: float) -> None:
        """Ends one loss; one that is not there is no error."""
        for one in _single(direction):
            code = encode(program(one, peer, share))
            if code in self._shown(one):
                self._filter("delete", one, code)
        if not any(self._shown(one) for one in _ATTACHED):
            self.mend()

    def cuts(self) -> tuple[tuple[Direction, str | None, float], ...]:
        """Every loss as the kernel has it: direction, peer's address, share."""
        found = []
        for direction in _ATTACHED:
            for code in self._shown(direction):
                found.append((direction, *decode(code, direction)))
        return tuple(found)

    def _filter(self, action: str, direction: Direction, code: str) -> None:
        place = ("dev", self.device, _ATTACHED[direction], "prio", str(_priority(code)), "handle", "1")
        body = ("bpf", "da", "bytecode", code) if action == "replace" else ("bpf",)
        _tc("filter", action, *place[:5], "protocol", "all", *place[5:], *body)

    def _shown(self, direction: Direction) -> tuple[str, ...]:
        if not _has_qdisc(self.device):
            return ()
        shown = _tc("filter", "show", "dev", self.device, _ATTACHED[direction])
        return tuple(_SHOWN.findall(shown))


@cache
def possible() -> bool:
    """Whether this machine's kernel and iproute2 can do it: tried once on a link of our own."""
    name = f"3nc{os.getpid():x}"
    try:
        run_tool((tool_of("ip"), "link", "add", name, "type", "veth", "peer", "name", f"{name}p"), name)
    except SubstrateError:
        return False
    try:
        Links(name).cut(Direction.OUTGOING, None, 0.5)
        return bool(Links(name).cuts())
    except SubstrateError:
        return False
    finally:
        with contextlib.suppress(SubstrateError):
            run_tool((tool_of("ip"), "link", "delete", "dev", name), name)


def as_cut(found: tuple[Direction, str | None, float], names: dict[str, str]) -> Cut:
    """A loss with the peer's name in place of its address; `names` is by address."""
    direction, peer, share = found
    return Cut(peer=None if peer is None else names.get(peer, peer), direction=direction, share=share)


def _single(direction: Direction) -> tuple[Direction, ...]:
    return tuple(_ATTACHED) if direction is Direction.BOTH else (direction,)


def _priority(code: str) -> int:
    """A place of its own for each program, so that adding it again replaces it."""
    return 1 + int.from_bytes(hashlib.sha256(code.encode()).digest()[:4], "big") % 0xBFFF


def _has_qdisc(device: str) -> bool:
    if not Path("/sys/class/net", device).exists():  # between two lives of the host's network
        return False
    return "qdisc clsact " in _tc("qdisc", "show", "dev", device)


def _tc(*args: str) -> str:
    return run_tool((tool_of("tc"), *args), "tc " + " ".join(args[:4]))
