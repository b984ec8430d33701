"""User interfaces: commands, dashboard, daemon, the use cases they share, and the composition root (`ui.app`)."""
