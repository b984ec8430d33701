"""Every way in: commands, dashboard, daemon, and the one place that puts the parts together (`compose`)."""
