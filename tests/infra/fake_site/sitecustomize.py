"""On PYTHONPATH only in tests of the engine: the provider's process then works over the fake substrate."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))

from tests.infra.fake_substrate import install

install()
