"""The one port of a host for calls: mutual TLS, one connection per pair of hosts."""
