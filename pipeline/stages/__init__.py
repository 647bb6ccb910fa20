"""Remembers: the lanes' streaming state, NumPy in and NumPy out."""
