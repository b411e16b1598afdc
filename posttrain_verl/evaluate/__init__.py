"""Evaluate a model: its questions, answers, grades and kinds of error, the file of results, and comparisons of them."""
