"""The installation on a user's machine: its folders, and the background service.

`paths` names the folders and files, `service_file` describes the service to run, `systemd` and `launchd`
control it, `subprocess_call` runs their commands. Nothing here needs the source tree.

Neighbours: `pipeline.cli.service` and `pipeline.cli.uninstall` are the commands; `make install` creates the
virtual environment. What does not belong here: models and sockets.
"""
