"""Analyses of one window of bars: indicators, patterns, trend and a trade decision. No trading."""
