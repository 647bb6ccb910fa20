"""Voices and roles from the command line to the model, with a tiny checkpoint of PersonaPlex's layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.personas import GOLDENS, write_persona_folder
from support.recordings import write_speech

from pipeline.audio.sound_file import read_speech
from pipeline.cli import offline, voices, weights
from pipeline.errors import AudioFileError, ConfigError, VoiceError
from pipeline.models.checkpoint.resolve import open_config
from pipeline.models.prompt import SILENCE
from pipeline.stages.model_stages import ModelStages, open_stages
from pipeline.values import GREEDY, Persona

QUESTION = Path(__file__).parents[1] / "data" / "question.wav"
ROLE = "be kind"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_persona_folder(tmp_path_factory.mktemp("persona"), settings={"lanes": {"max": 1}})


@pytest.fixture(autouse=True)
def own(tmp_path_factory, monkeypatch) -> Path:
    """The user's folders are temporary ones."""
    for variable in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path_factory.mktemp("home")))
    return voices.VoiceStore(None)._own


def stages_of(folder: Path, *overrides: str) -> ModelStages:
    return open_stages(open_config(folder, overrides, check=open_stages))


def run_offline(folder: Path, tmp_path: Path, *arguments: str) -> dict[str, np.ndarray]:
    trace = tmp_path / "t.npz"
    command = ["--config", str(folder), "--greedy", "--trace", str(trace), *arguments]
    assert offline.main([*command, str(QUESTION), str(tmp_path / "out.wav")]) == 0
    with np.load(trace) as arrays:
        return dict(arrays)


def test_the_trace_begins_with_the_first_frame_of_the_conversation(folder, tmp_path):
    """Every user frame is answered; the sound is what is heard behind the prompt's silence."""
    trace = run_offline(folder, tmp_path, "--voice", "NATF0", "--role", ROLE)
    assert len(trace["agent_codes"]) == len(trace["user_codes"]) == 64
    stages = stages_of(folder)
    stepper, decoder = stages.load_stepper(), stages.load_decoder()
    for stage in (stepper, decoder):
        stage.open(0, GREEDY)
    stepper.begin(0, stages.personas.build(Persona("NATF0", ROLE)))
    steps = [stepper.step([0], codes[None])[0] for codes in trace["user_codes"]]
    assert [step.token for step in steps] == trace["text_tokens"].tolist()
    np.testing.assert_array_equal([step.codes for step in steps], trace["agent_codes"])
    heard = [decoder.decode([0], codes[None])[0] for codes in [np.array(SILENCE), *trace["agent_codes"]]]
    np.testing.assert_allclose(np.concatenate(heard[1:]), trace["agent_pcm"], atol=1e-6)
    plain = run_offline(folder, tmp_path)
    assert len(plain["agent_codes"]) == 63
    assert plain["text_tokens"].tolist() != trace["text_tokens"].tolist()


def test_a_voice_may_be_a_file(folder, tmp_path):
    """As published, it is the one from the archive; a recording is a voice, too."""
    named = run_offline(folder, tmp_path, "--voice", "NATF0")
    file = run_offline(folder, tmp_path, "--voice", str(GOLDENS / "voice.pt"))
    write_wav(tmp_path / "short.wav", 1.2)
    recorded = run_offline(folder, tmp_path, "--voice", str(tmp_path / "short.wav"))
    np.testing.assert_array_equal(named["agent_codes"], file["agent_codes"])
    assert recorded["agent_codes"].shape == named["agent_codes"].shape
    assert not np.array_equal(recorded["agent_codes"], named["agent_codes"])


def test_the_default_is_that_of_the_configuration(folder, tmp_path):
    """An empty role or voice is none."""
    default = ["--set", "prompt.role=be kind"]
    assert np.array_equal(
        run_offline(folder, tmp_path, *default)["agent_codes"],
        run_offline(folder, tmp_path, "--role", ROLE)["agent_codes"],
    )
    assert len(run_offline(folder, tmp_path, *default, "--role", "")["agent_codes"]) == 63


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--voice", "NATF9"], "NATF9: there is no such voice; there are NATF0"),
        (["--role", "be \udcff"], "not Unicode text"),  # what a byte that is not UTF-8 becomes
        (["--role", "be kind " * 40], "shorten the role"),
        (["--set", "prompt.voice=NATF9"], "pipeline.prompt: NATF9: there is no such voice"),
        (["--set", "prompt.pin=true", "--role", "be kind be kind"], "more than half"),
    ],
)
def test_what_is_impossible_is_one_sentence(folder, tmp_path, arguments, reason):
    """Unknown, too long, or too long to be kept."""
    with pytest.raises(ConfigError, match=reason):
        run_offline(folder, tmp_path, *arguments)


def test_a_model_without_prompts_says_so(tmp_path):
    """Like the embedded one."""
    with pytest.raises(ConfigError, match="neither a voice nor a role"):
        offline.main(["--role", ROLE, str(QUESTION), str(tmp_path / "out.wav")])
    with pytest.raises(ConfigError, match="neither a voice nor a role"):
        voices.main(["list"])


def test_an_own_voice_is_added_used_and_removed(folder, tmp_path, own, capsys):
    """Only with consent; it is listed before the published ones, and readable by nobody else."""
    config = ["--config", str(folder)]
    with pytest.raises(ConfigError, match="--consent"):
        voices.main(["add", "anna", str(QUESTION), *config])
    with pytest.raises(ConfigError, match="the model attends to 40"):  # 64 frames are too many for this one
        voices.main(["add", "anna", str(QUESTION), "--consent", *config])
    short = tmp_path / "short.wav"
    write_wav(short, 1.2)
    assert voices.main(["add", "anna", str(short), "--consent", *config]) == 0
    assert (own / "anna.safetensors").stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    voices.main(["list", "--json", *config])
    listed = json.loads(capsys.readouterr().out)["voices"]
    assert listed == [{"name": "anna", "origin": "own"}, {"name": "NATF0", "origin": "published"}]
    trace = run_offline(folder, tmp_path, "--voice", "anna")
    from_file = run_offline(folder, tmp_path, "--voice", str(short))
    np.testing.assert_array_equal(trace["agent_codes"], from_file["agent_codes"])
    assert voices.main(["remove", "anna"]) == 0
    with pytest.raises(VoiceError, match="no voice of that name"):
        voices.main(["remove", "anna"])


def write_wav(path: Path, length_s: float) -> None:
    write_speech(path, read_speech(QUESTION)[: int(length_s * 24_000)])


@pytest.mark.parametrize("length_s", [0.5, 21])
def test_a_recording_of_another_length_is_refused(folder, tmp_path, length_s):
    """A voice takes 1 to 20 seconds."""
    path = tmp_path / "voice.wav"
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, int(length_s * 24_000))
    write_speech(path, noise.astype(np.float32))
    with pytest.raises(AudioFileError, match="a voice takes 1 to 20 s"):
        voices.main(["add", "anna", str(path), "--consent", "--config", str(folder)])


def test_voices_are_part_of_the_checkpoint(folder, capsys):
    """Inspected and fetched with it."""
    assert weights.main(["inspect", "--json", "--config", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["voices"] == [{"name": "NATF0", "origin": "published"}]
    assert weights.main(["fetch", "--json", "--config", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["voices_name"]["path"].endswith("voices.tgz")
    assert stages_of(folder).card.voices == ("NATF0",)


def test_a_quantized_checkpoint_keeps_its_voices(folder, tmp_path):
    """And takes roles: it is the same model."""
    target = tmp_path / "q4"
    assert weights.main(["quantize", "--config", str(folder), "--bits", "4", str(target)]) == 0
    stages = stages_of(target)
    assert stages.card.voices == ("NATF0",)
    assert stages.personas.build(Persona("NATF0", ROLE)).key == (
        stages_of(folder).personas.build(Persona("NATF0", ROLE)).key
    )
