"""The embedded PostgreSQL server: binaries, data folder, processes, upgrade."""
