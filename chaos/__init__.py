"""Faults, scenarios and the guard that heals them."""
