"""Helpers that several test modules share; nothing here is collected."""
