"""The packet protocol, sans-IO: bytes to packets and back, and who may send what when.

From the wire upwards: `packets` (17 bytes of header), `objects` (JSON to frozen classes),
`metadata` (the vocabulary of METADATA packets), `outgoing` (packets that have no seq yet),
`phases` (who may send what), `liveness` (heartbeats and silence), `unacked` (packets that wait
for an ACK), `conversation` (one end of one connection). `faults` names what a peer or we did
wrong, `close_reason` why a connection ends. The wire format is specified in docs/reference/protocol.md.

What belongs here: everything that a client in another language would have to agree with. What
does not: sockets and clocks (actors, web), samples (pipeline.audio), close code numbers (web).
"""
