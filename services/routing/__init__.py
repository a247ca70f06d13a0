"""Which instance of an agent takes a call."""
