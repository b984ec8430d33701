"""Charts, indicators, patterns and trend lines of one window of bars."""
