"""The serving engine and the hub proxy: Trio tasks, bounded channels, deadlines and pinned model threads."""
