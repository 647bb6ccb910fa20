"""Process an audio file with the model, without a server, as fast as possible.

    packet-voice offline question.wav answer.wav
    packet-voice offline --replay RECORDING answer.wav

Runs the same stages as the server, frame by frame on one thread. With the same weights, input and seed it
produces the same tokens as a session of the server. The text of the answer is printed on stdout.

Exit codes: 0; 2 usage, configuration or audio file error; 3 weights error.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audio.framing import Framer
from pipeline.audio.recordings import Replay, Stop, read_replay
from pipeline.audio.wav import WavWriter, read_speech
from pipeline.cli.arguments import add_config_arguments
from pipeline.cli.program_name import program
from pipeline.errors import ConfigError
from pipeline.models.checkpoint.resolve import open_config
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.values import GREEDY, Codes, Pcm, SamplingParams, TextFinal

LANE = 0


@dataclass
class Trace:
    """The output of every stage, frame by frame."""

    user_codes: list[Codes] = field(default_factory=list)
    text_tokens: list[int] = field(default_factory=list)
    agent_codes: list[Codes] = field(default_factory=list)
    agent_pcm: list[Pcm] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write an npz file with the arrays of the trace.

        `user_codes [T, K]`, `text_tokens [T]`, `agent_codes [T-d, dep_q]` and `agent_pcm [(T-d)·1920]`, where
        `d` is the model's largest delay in steps.

        Raises:
            ConfigError: the file cannot be written.
        """
        arrays: dict[str, Any] = {
            "user_codes": np.array(self.user_codes, np.int32),
            "text_tokens": np.array(self.text_tokens, np.int32),
            "agent_codes": np.array(self.agent_codes, np.int32),
            "agent_pcm": np.concatenate([np.empty(0, np.float32), *self.agent_pcm]),
        }
        try:
            with path.open("wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise ConfigError("--trace", f"{path} cannot be written ({error.strerror})") from None


def run_frames(stages: ModelStages, frames: Pcm, sampling: SamplingParams) -> Trace:
    """Process `frames [T, 1920]` on one lane and return the output of every stage."""
    return _run(stages, (((), frame, None) for frame in frames), sampling)


def run_recording(stages: ModelStages, recorded: Replay) -> Trace:
    """Process a recorded session with its sampling changes and dropped frames; yields the same tokens."""
    return _run(stages, recorded, recorded.sampling)


def _run(
    stages: ModelStages,
    steps: Iterable[tuple[Sequence[SamplingParams], Pcm, Stop | None]],
    sampling: SamplingParams,
) -> Trace:
    encoder, stepper, decoder = stages.load_encoder(), stages.load_stepper(), stages.load_decoder()
    for stage in (encoder, stepper, decoder):
        stage.open(LANE, sampling)
    trace = Trace()
    for changes, frame, stop in steps:
        for change in changes:
            stepper.configure(LANE, change)
        if stop == "encoder":
            continue
        codes = encoder.encode([LANE], frame[None])
        if stop == "stepper":
            continue
        (step,) = stepper.step([LANE], codes)
        trace.user_codes.append(codes[0])
        trace.text_tokens.append(step.token)
        trace.text += [event.text for event in step.text if isinstance(event, TextFinal)]
        if step.codes is not None:
            trace.agent_codes.append(step.codes)
            trace.agent_pcm.append(decoder.decode([LANE], step.codes[None])[0])
    trace.text += [event.text for event in stepper.close(LANE)]
    return trace


def _frames(path: Path) -> Pcm:
    framer = Framer()
    return np.concatenate([framer.push(read_speech(path)), framer.flush()])


def _check(recorded: Replay, stages: ModelStages) -> None:
    """Check that the recording was made with the same weights, as only these produce the same tokens.

    Raises:
        ConfigError: it was made with other weights.
    """
    if recorded.digest != stages.digest():
        raise ConfigError("--replay", f"the recording was made with other weights, of {recorded.model}")
    if not recorded.complete:
        print("the recording is incomplete; processing what it contains", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog=program("offline"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--greedy", action="store_true", help="always choose the most likely token")
    parser.add_argument("--seed", type=int, default=0, help="random seed for sampling (default 0)")
    parser.add_argument(
        "--trace", type=Path, metavar="T.npz", help="write the output of every stage to an npz file"
    )
    parser.add_argument(
        "--replay", type=Path, metavar="RECORDING", help="process a recorded session instead of a file"
    )
    parser.add_argument("input", type=Path, nargs="?", metavar="IN.wav", help="audio file to process")
    parser.add_argument("output", type=Path, metavar="OUT.wav", help="audio file to write the answer to")
    options = parser.parse_args(arguments)

    if (options.input is None) == (options.replay is None):
        raise ConfigError("", "give either IN.wav or --replay RECORDING")
    recorded = None if options.replay is None else read_replay(options.replay)
    frames = _frames(options.input) if recorded is None else recorded.frames
    config = open_config(options.config, [*options.set, "lanes.max=1"], check=open_stages)
    stages = open_stages(config)
    if recorded is not None:
        _check(recorded, stages)
    recommended = stages.bundle.recommended_sampling
    sampling = GREEDY if options.greedy else config.settings.sampling_for(recommended, options.seed)
    with WavWriter(options.output) as wav:
        trace = run_frames(stages, frames, sampling) if recorded is None else run_recording(stages, recorded)
        for pcm in trace.agent_pcm:
            wav.write(pcm)
    if options.trace is not None:
        trace.save(options.trace)
    for text in trace.text:
        print(text)
    print(f"{len(frames)} frames in, {len(trace.agent_pcm)} out", file=sys.stderr)
    return 0
