"""Proofs from the log alone: integrity, causes, past states, regeneration and exports."""
