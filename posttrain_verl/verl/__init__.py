"""What knows VeRL: its keys, its files, its trainers."""
