"""Use cases: one module for each task that commands, screens and the Python interface share."""
