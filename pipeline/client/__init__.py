"""A real-time client of the packet protocol: sends speech at the pace of a microphone, receives the answer.

`session` holds one conversation over the WebSocket that `connect` opens; `source` paces the audio,
`report` measures the conversation, `audio_device` is the microphone and loudspeaker. The command is
`pipeline.cli.talk`. Nothing here depends on how the server works: the two share only
`pipeline.protocol`, as if this were written in another language.
"""
