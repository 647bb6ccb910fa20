"""The Live API of OpenAI: JSON events in text frames, and a clock that is the client's audio.

`client_events` are the commands of a client, `dialect` is the server's end. Source: the types of the
`openai` package (`openai.types.live`). What is supported: docs/how-to/clients.md.
"""
