"""Locust users, load shapes and workload models."""
