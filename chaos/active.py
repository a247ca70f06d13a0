"""A fault that is on, as its session knows it."""

from __future__ import annotations

import threading
import time

from chaos.fault import Fault, Proof, Radius, Trial
from chaos.ledger import Opened


class Active:
    """Made by `Session.begin`, ended by `Session.end`."""

    def __init__(self, fault: Fault, trial: Trial, entry: Opened, radius: Radius) -> None:
        self.fault = fault
        self.trial = trial
        self.entry = entry
        self.radius = radius
        self.effect = Proof(False)
        self.begun = time.monotonic()
        self.inject_ms = 0.0
        self.trouble = ""
        self.stop = threading.Event()
        self.keeper: threading.Thread | None = None
