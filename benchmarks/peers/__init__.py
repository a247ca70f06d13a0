"""Against the peers: the same three hosts, traffic and faults under other systems for high availability."""
