"""The daemons: manager and agents, each in two processes, and what starts and stops them."""
