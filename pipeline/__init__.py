"""Speech in, speech out: the parts of the server that compute.

Rooms, each with one verb: `protocol` spells packets, `audio` cuts samples, `models`
computes arrays, `stages` remembers sessions. What travels between them is named in
`values`, the knobs in `config`, the failures in `errors`, the constants in `units`.
Waiting is done next door in `actors`, and speaking HTTP in `web`.
"""
