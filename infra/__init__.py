"""Turns a topology into running hosts: model, substrates, Pulumi provider, pinned tools."""
