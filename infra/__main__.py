"""What a literal `pulumi up` in this folder runs."""

import sys
from pathlib import Path

# The engine starts programs in their own folder; ours is a package beside others.
sys.path[:] = [
    str(Path(__file__).resolve().parents[1]),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent),
]

from infra.program import program  # noqa: E402
from infra.project import check_configuration  # noqa: E402

check_configuration()
program()
