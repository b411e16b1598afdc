"""Trainings one after the other, each from the best checkpoint before it, and all evaluated on the same questions."""
