"""Pure decisions: `(state, event, now) -> (state, actions)`. No socket, clock, task or randomness in here.

A thin shell (services.hostd) feeds events in and performs the actions; a simulator may do the same.
"""
