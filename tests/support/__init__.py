"""Helpers of the tests. No test lives here."""
