"""What a machine has: processes, devices, signals, and what dead runs left on it."""
