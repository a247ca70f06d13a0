"""The programs that run on the hosts."""
