"""Too little of the machine, for this process, which in many tests is the server too."""

import resource
import socket
from contextlib import contextmanager


@contextmanager
def no_more_files():
    """No other file can be opened within the block, and no socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest:  # a limit is on the number of a descriptor, not on how many there are
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
