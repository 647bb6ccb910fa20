"""The parts of the hub proxy (`actors.proxy`).

    request ──── which file of which repository a path names, and which repositories are allowed
    disk_store ─ files on disk: whole and partial ones, and which to evict
    cache ────── the store within its bound, for Trio tasks
    client ───── one HTTP request to the hub: redirects, ranges, and the token, sent to the hub alone
    fetcher ──── when to ask the hub, how many requests at once, what it answered recently
    download ─── one file on its way from the hub, and everyone who reads it meanwhile

What does not belong here: HTTP towards our own clients, which is `web.routes.hub`.
"""
