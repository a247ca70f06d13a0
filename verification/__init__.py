"""Plans, trials, checkers, statistics and verdicts."""
