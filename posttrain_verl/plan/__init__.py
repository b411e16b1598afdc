"""What a launch needs and what the machine has: hardware facts, memory model, choice, batch arithmetic."""
