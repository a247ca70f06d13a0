"""Side-by-side figures: ours against a named baseline, both measured in the same run."""
