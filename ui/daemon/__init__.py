"""Paper trading against the clock: the daemon, its feed and its slot timer."""
