"""The read side: tables projected from the log and the bars. Never appends events."""
