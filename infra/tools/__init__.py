"""The pinned tools that are not Python: built, unpacked, found."""
