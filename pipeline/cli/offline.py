"""Process an audio file with the model, without a server, as fast as possible.

    packet-voice offline question.wav answer.wav
    packet-voice offline --voice NATF2 --role "You are a wise teacher." question.wav answer.wav
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
from pipeline.audio.sound_file import FORMATS, SoundWriter, read_sound
from pipeline.cli.arguments import CommandParser, add_config_arguments, whole_number
from pipeline.cli.voices import VOICE_FILES, voice_of_file
from pipeline.config import PromptDefaults
from pipeline.errors import ConfigError, OutputError, PromptError
from pipeline.install.program_name import program
from pipeline.models.checkpoint.resolve import open_config
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.system.outputs import STDOUT, OutputFile
from pipeline.values import GREEDY, Codes, Pcm, Persona, Prompt, SamplingParams, TextFinal

LANE = 0


@dataclass
class Trace:
    """The output of every stage, frame by frame."""

    user_codes: list[Codes] = field(default_factory=list)
    text_tokens: list[int] = field(default_factory=list)
    agent_codes: list[Codes] = field(default_factory=list)
    agent_pcm: list[Pcm] = field(default_factory=list)
    text: list[str] = field(default_factory=list)

    def save(self, path: Path, inputs: Iterable[Path | None] = ()) -> None:
        """Write an npz file with the arrays of the trace.

        `user_codes [T, K]`, `text_tokens [T]`, `agent_codes [T-d, dep_q]` and `agent_pcm [(T-d)·1920]`, where
        `d` is the model's largest delay in steps.

        Raises:
            OutputError: the file cannot be written, or is one of `inputs`.
        """
        arrays: dict[str, Any] = {
            "user_codes": np.array(self.user_codes, np.int32),
            "text_tokens": np.array(self.text_tokens, np.int32),
            "agent_codes": np.array(self.agent_codes, np.int32),
            "agent_pcm": np.concatenate([np.empty(0, np.float32), *self.agent_pcm]),
        }
        with OutputFile(path, inputs=inputs) as output:
            try:
                with output.path.open("wb") as file:
                    np.savez(file, **arrays)
            except OSError as error:
                raise OutputError(str(path), f"cannot be written ({error.strerror})") from None
            output.commit()


def run_frames(
    stages: ModelStages, frames: Pcm, sampling: SamplingParams, prompt: Prompt | None = None
) -> Trace:
    """Process `frames [T, 1920]` on one lane, which begins with `prompt`; the output of every stage."""
    return _run(stages, (((), frame, None) for frame in frames), sampling, prompt)


def run_recording(stages: ModelStages, recorded: Replay, prompt: Prompt | None = None) -> Trace:
    """Process a recorded session with its sampling changes and dropped frames; yields the same tokens."""
    return _run(stages, recorded, recorded.sampling, prompt)


def _run(
    stages: ModelStages,
    steps: Iterable[tuple[Sequence[SamplingParams], Pcm, Stop | None]],
    sampling: SamplingParams,
    prompt: Prompt | None,
) -> Trace:
    encoder, stepper, decoder = stages.load_encoder(), stages.load_stepper(), stages.load_decoder()
    for stage in (encoder, stepper, decoder):
        stage.open(LANE, sampling)
    if prompt is not None:
        stepper.begin(LANE, prompt)
        decoder.begin(LANE, prompted=True)
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
    framer, speech = Framer(), read_sound(path)
    for notice in speech.notices:
        print(notice, file=sys.stderr)
    return np.concatenate([framer.push(speech.pcm), framer.flush()])


def _check(recorded: Replay, stages: ModelStages) -> None:
    """Check that the recording was made with the same weights, as only these produce the same tokens.

    Raises:
        ConfigError: it was made with other weights.
    """
    if recorded.digest != stages.digest():
        raise ConfigError("--replay", f"the recording was made with other weights, of {recorded.model}")
    if recorded.prompt_key is not None:
        prompt = _build(stages, recorded.persona)
        if prompt is None or prompt.key != recorded.prompt_key:
            raise ConfigError(
                "--replay", f"the voice {recorded.persona.voice} is not the recorded one any more"
            )
    if not recorded.complete:
        print("the recording is incomplete; processing what it contains", file=sys.stderr)


def _require_files(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Check that there is one source of audio, and a place for the answer."""
    if options.replay is not None:
        if options.input is not None:
            parser.error("--replay takes the place of IN.wav: give only OUT.wav")
        if options.output is None:
            parser.error("OUT.wav is missing")
    elif options.input is None:
        parser.error("IN.wav and OUT.wav are missing (or --replay RECORDING and OUT.wav)")
    elif options.output is None:
        parser.error("OUT.wav is missing: name the file for the answer after IN.wav")
    if options.trace is not None and options.trace.suffix not in ("", ".npz"):
        parser.error(f"--trace writes .npz, not {options.trace.suffix}")


def _build(stages: ModelStages, persona: Persona) -> Prompt | None:
    try:
        return stages.personas.build(persona)
    except PromptError as error:
        raise ConfigError("", str(error)) from None


def _prompt(
    stages: ModelStages, voice: str | None, role: str | None, default: PromptDefaults
) -> Prompt | None:
    """The prompt for `--voice` and `--role`, or else that of the configuration."""
    persona = Persona(default.voice if voice is None else voice, default.role if role is None else role)
    if voice is not None and Path(voice).suffix in VOICE_FILES:
        try:
            return stages.personas.build_from(voice_of_file(stages, Path(voice)), persona.role)
        except PromptError as error:
            raise ConfigError("--voice", str(error)) from None
    return _build(stages, Persona(persona.voice or None, persona.role or None))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(
        prog=program("offline"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_arguments(parser)
    parser.add_argument("--greedy", action="store_true", help="always take the most likely token")
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, help="random seed for sampling (default 0)"
    )
    parser.add_argument(
        "--voice", metavar="NAME|FILE", help="the agent's voice: one of `packet-voice voices list`, or a file"
    )
    parser.add_argument("--role", metavar="TEXT", help="who the agent is, for PersonaPlex")
    parser.add_argument(
        "--trace", type=Path, metavar="T.npz", help="write the output of every stage to an npz file"
    )
    parser.add_argument(
        "--replay", type=Path, metavar="RECORDING", help="process a recorded session instead of a file"
    )
    parser.add_argument(
        "input", type=Path, nargs="?", metavar="IN.wav", help="audio file to process; - is stdin"
    )
    parser.add_argument(
        "output",
        type=Path,
        nargs="?",
        metavar="OUT.wav",
        help=f"audio file to write the answer to ({', '.join(FORMATS)}); - is stdout, as WAV",
    )
    options = parser.parse_args(arguments)
    if options.replay is not None and options.output is None:  # the only file is the output
        options.input, options.output = None, options.input
    _require_files(parser, options)
    if options.replay is not None and (options.voice is not None or options.role is not None):
        raise ConfigError("--replay", "a recording has the voice and the role that it was made with")
    recorded = None if options.replay is None else read_replay(options.replay)
    frames = _frames(options.input) if recorded is None else recorded.frames
    config = open_config(options.config, [*options.set, "lanes.max=1"], check=open_stages)
    stages = open_stages(config)
    if recorded is not None:
        _check(recorded, stages)
    recommended = stages.bundle.recommended_sampling
    sampling = GREEDY if options.greedy else config.settings.sampling_for(recommended, options.seed)
    if recorded is None:
        prompt = _prompt(stages, options.voice, options.role, config.settings.prompt)
    else:
        prompt = _build(stages, recorded.persona)
    inputs = (options.input, options.trace)
    with SoundWriter(options.output, inputs=inputs) as sound:
        if recorded is None:
            trace = run_frames(stages, frames, sampling, prompt)
        else:
            trace = run_recording(stages, recorded, prompt)
        for pcm in trace.agent_pcm:
            sound.write(pcm)
        sound.commit()
    if sound.notice is not None:
        print(sound.notice, file=sys.stderr)
    if options.trace is not None:
        trace.save(options.trace, (options.input, options.output))
    for text in trace.text:
        print(text, file=sys.stderr if str(options.output) == STDOUT else sys.stdout)
    print(f"{len(frames)} frames in, {len(trace.agent_pcm)} out", file=sys.stderr)
    return 0
