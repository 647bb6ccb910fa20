"""Talks: a client of the packet protocol in real time, as a person's microphone and loudspeaker would be.

`client` holds one conversation over what `connecting` opens; `speech` is what is said in it,
`report` measures it, `soundcard` is the live audio. The command is `pipeline.cli.talk`. Nothing
here knows how the server works: the two meet only in `pipeline.protocol`, as they would if
this were written in another language.
"""
