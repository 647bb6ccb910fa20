"""Speech synthesizers, and who speaks with them: text to samples with the time of every word.

What belongs here: an adapter for each synthesizer, the catalogue of voices and which are held out.
What is said: `conversation`. Where it is kept: `recordings`.
"""
