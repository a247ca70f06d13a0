"""The ownership protocol in a simulated world: time, network, store, crashes, clocks. One seed, one history.

`services.control` is what is simulated here, and judges nothing; the checkers know nothing of it but what it
publishes and what it writes. What a simulation finds is evidence of kind *simulated*.
"""
