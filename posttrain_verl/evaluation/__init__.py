"""What `evaluate` and `compare` need: questions, answers, grades, kinds of error, and the file of results."""
