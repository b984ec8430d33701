"""Opinions: what a market looks like at a bar, and what one would like to do about it. Nothing here trades."""
