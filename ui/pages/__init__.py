"""The pages of the dashboard: what is asked of the database, and where it goes on the screen."""
