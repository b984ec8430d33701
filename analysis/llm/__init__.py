"""Model presets and the log of model calls."""
