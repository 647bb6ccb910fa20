"""Spells: bytes to packets and back, and who may say what when. Sans-IO: no sockets, no clocks."""
