"""What every verb says and reads: problems with their remedies, the command line, and the console."""
