"""Presses on a server of our own: many light clients, some of them rude, and a watch on what it costs.

    talker ─── one well-behaved conversation, every answer accounted for
    rogues ─── conversations that go wrong in one way each, and how the server has to answer
    fuzzing ── packets nobody should send, and what the protocol's table says to each
    watch ──── the server's process and its /health, before, meanwhile and after
    crowd ──── a booted server among all of these: the crowd, the ramp, the stall
    balancer ─ HAProxy with the committed configuration
    fleet ──── several servers behind it, each ended and replaced at will
    replicas ─ what the balancer adds, whether sessions hold, a rolling restart
    alone ──── the stages in this process, as fast as they go

A *law* is broken or it holds: a wrong answer, a crash, a leak. A *figure* is only reported. What does not
belong here: starting a server (`pipeline.loadtest.server_process`), arguments (`pipeline.cli.loadtest`).
"""
