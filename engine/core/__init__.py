"""Values, events and identifiers. Pure: no I/O, no clock, no randomness."""
