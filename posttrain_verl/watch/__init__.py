"""What watches a run: rules on its metrics, on its machine, and what they saw written to events.jsonl."""
