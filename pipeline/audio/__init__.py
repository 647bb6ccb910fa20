"""Cuts: framing, pacing arithmetic, resampling and WAV files."""
