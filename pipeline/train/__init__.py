"""Trains the embedded default: a corpus from nothing, a codec, a language model, and what they are worth.

A conversation is written (`phrases`), spoken by a synthesizer (`espeak`, `voices`, kept in a `bank`),
laid out in time (`sessions`) and put in a room (`acoustics`). `networks` are the models again,
in PyTorch, because MLX's are written to be stepped, not trained; an export is compared with
those. Commands, in their order: `corpus`, `codec`, `encode`, `language`, `export`, `evaluate`.

What belongs here: nothing that a server needs. No other room imports this one.
"""
