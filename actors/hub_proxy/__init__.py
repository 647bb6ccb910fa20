"""The parts of the hub proxy (`actors.proxy`), each of which knows one thing.

    wanted ── which file of which repository a path names, and whether it may be asked for
    store ─── files on disk: whole ones, those on their way, and which has to go
    shelf ─── the same within its bound, for those who may not block
    hub ───── one question to the hub over HTTP, redirects followed, the token shown to the hub alone
    errands ─ when the hub is asked, how many questions at once, what it said a moment ago
    flight ── one file on its way from the hub, for everybody who waits for it

What does not belong here: HTTP towards our own clients, which is `web.routes.hub`.
"""
