"""Random tests have no deadline and may be slow to draw: machines are busy, and no test asserts a time.

A gate has to say the same of the same commit, so by default a random test draws the same examples every time.
`HYPOTHESIS_PROFILE=explore` draws new ones: for a developer's machine and for nights, where a find becomes
an `@example` instead of a red gate for whoever comes next.
"""

import os

from hypothesis import HealthCheck, settings

_slow = [HealthCheck.too_slow]
settings.register_profile("gate", deadline=None, suppress_health_check=_slow, derandomize=True)
settings.register_profile("explore", deadline=None, suppress_health_check=_slow, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))
