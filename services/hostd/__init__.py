"""The daemon of a host: starts and watches its agents, knows who serves where, answers for its host."""
