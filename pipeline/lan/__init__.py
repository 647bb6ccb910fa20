"""Lets other machines of the same network in: how they reach this one, and what they may trust it by.

What belongs here: addresses, a certificate authority that can vouch for nothing but them, the
token, and the invitation that holds all three. Everything is kept in one private folder.

Neighbours: `web.security.listen` opens with it, `pipeline.run` and `pipeline.cli.invite` show it. What does
not belong here: sockets, and certificates that somebody else made.
"""
