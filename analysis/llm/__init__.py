"""Model presets and the record of every model call."""
