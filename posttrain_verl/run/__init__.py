"""A run: its folder, the process that trains, and the supervisor that follows it."""
