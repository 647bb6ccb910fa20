"""Tensor parallelism: one language model split over several processes (ranks)."""
