"""Waits: Trio tasks, bounded channels, deadlines and pinned model threads."""
