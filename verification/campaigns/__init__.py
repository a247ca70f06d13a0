"""Campaigns: what a run does to the stack, in the order of its plan. They judge nothing."""
