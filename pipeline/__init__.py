"""A speech-to-speech server: models, audio, packet protocol, commands and configuration.

`models` computes arrays, `stages` keeps the state of the sessions, `audio` converts samples, `protocol`
encodes packets. The values they exchange are in `values`, the settings in `config`, the exceptions in
`errors`, the constants in `units`; `run` serves, `cli` holds the other commands.

Neighbours: everything that awaits is in `actors`, everything about HTTP in `web`.
"""
