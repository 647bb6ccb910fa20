"""Audio samples: framing, pacing arithmetic, resampling, fades, noise and sound files.

What belongs here: arithmetic on samples and on the instants they are due. What does not: clocks and
waiting (actors, pipeline.client), packets (pipeline.protocol), devices (pipeline.client.audio_device).
"""
