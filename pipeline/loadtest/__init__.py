"""Load tests of a server that is started for them: normal and faulty clients, and what they cost the server.

    server_process  starts a server as a user would, on a free port
    client          one client, which checks that each of its frames is answered or reported as dropped
    misbehaving     clients with one fault each, and the responses that the protocol requires
    fuzzing         random packets, and the responses that the protocol requires
    monitor         the server's process and its /health, before, during and after
    scenarios       one server under load: a mix of clients, a ramp, a stall
    haproxy         HAProxy with the committed configuration
    cluster         several servers behind it, each of which can be stopped and replaced
    failover        the overhead of the balancer, load behind it, a rolling restart
    in_process      the stages in this process, without a server, as fast as possible

A *violation* is a broken guarantee: a wrong response, a crash, a leak. Every other result is a
measurement. The command and its options are in `pipeline.cli.loadtest`.
"""
