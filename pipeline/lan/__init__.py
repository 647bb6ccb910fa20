"""Access from other devices on the local network: addresses, certificates, a token, an invitation.

What belongs here: the host names and addresses of this machine, a certificate authority limited to them,
the token, and the invitation that contains all three. The files are kept in one private folder.

Neighbours: `web.security.listen` uses the credentials; `pipeline.run` and `pipeline.cli.invite` print the
invitation. What does not belong here: sockets, and certificates from another authority.
"""
