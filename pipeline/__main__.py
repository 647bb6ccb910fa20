"""`python -m pipeline` is the same command as `packet-voice`."""

import signal

if __name__ == "__main__":  # until `run_command` handles it: Python would print a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pipeline.cli.main import main

if __name__ == "__main__":
    main()
