"""Stamps: the proof that a step of the set-up was finished, and with which inputs.

A stamp is written last, after everything it vouches for stands under its final name. It holds a digest of
the step's inputs and the identity of each output; when either differs, or the stamp cannot be read, the
step is done again. So a set-up that was cut short anywhere is resumed and never taken for done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

_FORM = 1


@dataclass(frozen=True, slots=True)
class Output:
    """One file that a step left: its path and, followed through links, its size in bytes and mtime in ns."""

    path: str
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Output:
        """What `path` is now. Raises OSError when there is nothing."""
        status = path.stat()
        return cls(str(path), status.st_size, status.st_mtime_ns)

    def unchanged(self) -> bool:
        """Whether the file is still the one that was recorded."""
        try:
            return Output.of(Path(self.path)) == self
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a finished step was made from and what it left; `notes` records the versions that came."""

    step: str
    digest: str
    outputs: tuple[Output, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    def vouches_for(self, digest: str) -> bool:
        """Whether the step was done with these inputs and all that it left is unchanged."""
        return self.digest == digest and bool(self.outputs) and all(o.unchanged() for o in self.outputs)


def digest_inputs(inputs: Mapping[str, str | bytes]) -> str:
    """SHA-256 over named inputs, independent of their order; names and contents cannot run together."""
    total = hashlib.sha256(f"form {_FORM}".encode())
    for name in sorted(inputs):
        content = inputs[name]
        data = content.encode() if isinstance(content, str) else content
        for part in (name.encode(), data):
            total.update(len(part).to_bytes(8, "big"))
            total.update(part)
    return total.hexdigest()


def write_stamp(path: Path, stamp: Stamp) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(stamp), indent=1) + "\n")


def read_stamp(path: Path) -> Stamp | None:
    """The stamp, or nothing when there is none or it is damaged."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        outputs = tuple(
            Output(str(o["path"]), int(o["size_bytes"]), int(o["mtime_ns"])) for o in raw["outputs"]
        )
        notes = {str(key): str(value) for key, value in raw["notes"].items()}
        return Stamp(str(raw["step"]), str(raw["digest"]), outputs, notes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def stamp_outputs(paths: Iterable[Path]) -> tuple[Output, ...]:
    """The identity of every file a step left."""
    return tuple(Output.of(path) for path in paths)


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace `path` by `text` in one step; what was there stays until the new text is whole on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def link_atomically(path: Path, target: Path) -> None:
    """Make `path` a symbolic link to `target` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
