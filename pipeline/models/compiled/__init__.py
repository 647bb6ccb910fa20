"""Whole-step graphs for `mx.compile`: the eager models' arithmetic with fixed shapes."""
