"""The models' steps and frames as functions for `mx.compile`: the same arithmetic with fixed shapes."""
