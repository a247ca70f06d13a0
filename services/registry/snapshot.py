"""The discovery snapshot: hostd publishes, everybody on the host reads without asking anybody."""

from services.registry.model import SnapshotError, UnknownAgent
from services.registry.snapshot_reader import SnapshotReader
from services.registry.snapshot_writer import SnapshotWriter

__all__ = ["SnapshotError", "SnapshotReader", "SnapshotWriter", "UnknownAgent"]
