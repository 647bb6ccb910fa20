"""Measurements and estimates for `doctor`, `bench` and `capacity`.

* `microbenchmarks` — memory bandwidth and matrix products of this machine.
* `cost_model` — weights read and operations per frame, computed from an architecture.
* `stage_timing`, `stage_runner` — times of a model's stages and of the full-size codec.
* `estimates` — combines these: frame time and lanes of each published model on this machine.
* `capacity_plan` — hardware for a number of sessions, from data sheets and recorded measurements.
* `environment` — port, disk space and what a browser needs.
* `checkpoint_load`, `profiler` — how a checkpoint is loaded, and where a step spends its time.

Neighbours: the commands are in `pipeline.cli`. What does not belong here: a running server.
Importing this package chooses the backend first, as `pipeline.models` does.
"""

from pipeline import backend

backend.prepare()
