"""Faults that cannot outlive the harness: descriptions, a guard that undoes them, and the session between."""
