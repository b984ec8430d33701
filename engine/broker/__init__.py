"""The broker protocol, the paper broker, its durable record, and reconciliation against it."""
