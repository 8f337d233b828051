"""The sans-I/O heart: streams, placement, failover, deletion, leases, and the manager's state machine."""
