"""The agents: their wire, their SDK, their clients, and the zygote that forks them."""
