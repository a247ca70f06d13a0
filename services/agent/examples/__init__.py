"""Programs that are agents without the SDK."""
