"""Spells: bytes to packets and back, and who may say what when. Sans-IO: no sockets, no clocks.

From the wire upwards: `packets` (17 bytes of header), `objects` (JSON to frozen classes),
`metadata` (the vocabulary of METADATA packets), `outgoing` (what is said, not yet numbered),
`phases` (who may say what), `liveness` (heartbeats and silence), `conversation` (one end of
one connection). `faults` names what a peer or we did wrong, `farewell` why it ends. The wire
itself is written down in docs/reference/protocol.md.

What belongs here: everything a client in another language would have to agree with. What
does not: samples (pipeline.audio), waiting (actors), close code numbers (web).
"""
