"""What `python -m pipeline doctor` looks at: this machine, what a model asks of it, what is around it.

* `machine` — measures: reading memory, matrix products of each kind of weights.
* `work` — counts: the numbers a frame reads and the operations it takes, from architectures alone.
* `chain` — times the stages, and the full-size codec.
* `estimates` — joins the three: which published model would keep time, with how many lanes.
* `surroundings` — port, disk, what a browser asks for.

Importing this package chooses the backend first, as `pipeline.models` does.
"""

from pipeline import backend

backend.prepare()
