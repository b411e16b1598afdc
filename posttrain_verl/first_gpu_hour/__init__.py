"""The first hour on a rented GPU, and the twelve minutes on a lent one that has no network."""
