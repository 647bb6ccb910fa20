"""The Realtime API of OpenAI (GA form): JSON events in text frames, and turns.

A full-duplex model has no turns, so they are made from what it says (`turns`). `client_events` are the
commands of a client, `responses` is one response as events, `dialect` is the server's end. Source: the types
of the `openai` package (`openai.types.realtime`). What is supported: docs/how-to/clients.md.
"""
