"""Asking a running server, and measuring what it answers."""
