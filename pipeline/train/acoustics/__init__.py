"""What happens to a voice before it is encoded: rooms, microphones, channels, loudness, background sound."""
