"""Keeps a place on a user's machine: where everything of an installation lies, and what runs the service.

`places` names folders, `service` says what is to run, `systemd` and `launchd` have it run by the
manager that each system has, `asking` speaks to either. Nothing here needs the source tree.

Neighbours: `pipeline.cli.service` and `pipeline.cli.uninstall` are the commands; `make install` makes the
environment. What does not belong here: anything about models, and sockets.
"""
