"""What the log can prove and tell: why something was done, what the book was, and that nothing was changed."""
