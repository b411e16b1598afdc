"""Post-training with VeRL: recipes in, checked data, training runs, evaluations and reports out."""

__version__ = "0.1.0"
