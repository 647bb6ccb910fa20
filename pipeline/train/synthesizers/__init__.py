"""Speech synthesizers and their voices: text to samples with the time of every word.

What belongs here: an adapter for each synthesizer, the catalogue of voices and which are held out.
Texts: `conversation`. Storage: `recordings`.
"""
