"""The trading rules: book, sizing, risk, fills, exits and decisions. Pure: no I/O, no clock, no randomness."""
