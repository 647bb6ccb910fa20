"""`python -m pipeline` is the same command as `packet-voice`."""

from pipeline.cli.main import main

if __name__ == "__main__":
    main()
