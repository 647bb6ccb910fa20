"""Measures the rates of the machine, from which the floor is computed, in the rounds of the contenders."""

import json

from driving import read_job

from pipeline.diagnostics.microbenchmarks import flop_per_s, read_bytes_per_s

if __name__ == "__main__":
    threads = read_job()["threads"]
    print(json.dumps({"read_bytes_per_s": read_bytes_per_s(threads), "flop_per_s": flop_per_s()}))
