"""Result schema, rendering, history and trends of runs."""
