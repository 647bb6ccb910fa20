"""Moshi's protocol, version 0, as its servers and PersonaPlex's speak it: binary messages, Opus in Ogg.

`ogg` takes packets out of pages and puts them in, `query` reads what a client asks for in its URL,
`dialect` is the server's end. Sources: `moshi/moshi/server.py` and `rust/protocol.md` of kyutai-labs/moshi,
`moshi/moshi/server.py` of NVIDIA/personaplex. What is supported: docs/how-to/clients.md.
"""
