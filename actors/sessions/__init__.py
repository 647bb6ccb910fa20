"""One client's session: its lane, its send queue, its counters and its recording."""
