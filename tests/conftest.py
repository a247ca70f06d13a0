"""Random tests have no deadline and may be slow to draw: machines are busy, and no test asserts a time."""

from hypothesis import HealthCheck, settings

settings.register_profile("busy-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy-machine")
