"""Own rollouts become training data: solutions for SFT, pairs for preference training, pass rates for a curriculum."""
