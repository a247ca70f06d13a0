"""The process that agents are forked from: clean, single-threaded, everything imported and frozen."""
