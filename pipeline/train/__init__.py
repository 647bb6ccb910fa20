"""Trains the embedded default: a synthetic corpus, a codec, a language model, and their evaluation.

A conversation is written (`conversation`), spoken by synthesizers (`synthesizers`), kept (`recordings`),
laid out in time (`conversation.sessions`) and given room acoustics and noise (`acoustics`).
`networks` are the models again, in PyTorch, because MLX's are written to be stepped, not trained; an
export is compared with those. Commands, in their order: `corpus`, `codec`, `encode`, `language`,
`export`, `evaluate`.

What belongs here: nothing that a server needs. No other room imports this one.
"""
