"""A session with a prompt says what NVIDIA's code says from the first frame of the conversation on."""

import gc
import weakref

import mlx.core as mx
import numpy as np
import pytest
from support.personas import GOLDENS as FOLDER
from support.personas import golden_model
from support.personas import golden_prompt as prompt
from support.personas import golden_stepper as stepper
from support.prompts import Endurance

from pipeline.errors import PromptError
from pipeline.models.lm import LmModel
from pipeline.stages.stepper import StepperStage
from pipeline.values import GREEDY, Prompt, SamplingParams, Voice

RUNS = ("role", "voice", "voice_role", "file", "file_role")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "prompts.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def model() -> LmModel:
    return golden_model()


def stepper_bytes(model: LmModel) -> int:
    """Room for one of the shorter prompts."""
    stage = stepper(model)
    begin(stage, 0, GREEDY, prompt("role"))
    return stage._prompts.size_bytes


def begin(stage: StepperStage, lane: int, sampling: SamplingParams, wanted: Prompt) -> None:
    stage.open(lane, sampling)
    stage.begin(lane, wanted)


def due(golden: dict[str, np.ndarray], run: str) -> tuple[list[int], list[list[int]]]:
    """Text and agent codes of the conversation; the official code's first output is the prompt's end."""
    out = golden[f"{run}_out"][1:]
    return out[:, 0].tolist(), out[:, 1:9].tolist()


def run_frames(stage: StepperStage, lane: int, user: np.ndarray) -> tuple[list[int], list[list[int]]]:
    steps = [stage.step([lane], frame[None].astype(np.int32))[0] for frame in user]
    return [s.token for s in steps], [s.codes.tolist() for s in steps if s.codes is not None]


def agrees(found: tuple[list[int], list[list[int]]], golden: dict[str, np.ndarray], run: str) -> bool:
    """A frame's text stands a step before its last codes: token k is the text of frame k + 1."""
    text, codes = due(golden, run)
    return found[1][: len(codes)] == codes and found[0][: len(text) - 1] == text[1:]


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("run", RUNS)
def test_the_conversation_begins_as_the_official_one(golden, model, run, compiles):
    """Voice from codes, voice as published, role, and both; greedy, far beyond the context."""
    stage = stepper(model, compiles=compiles)
    begin(stage, 1, GREEDY, prompt(run))
    assert agrees(run_frames(stage, 1, golden[f"{run}_user"]), golden, run)


def test_without_a_prompt_nothing_is_different(golden, model):
    """The official code's unprompted run."""
    stage = stepper(model)
    stage.open(0, GREEDY)
    _, codes = run_frames(stage, 0, golden["plain_user"])
    assert codes[: len(golden["plain_out"])] == golden["plain_out"][:, 1:9].tolist()


@pytest.mark.parametrize("positions", [1, 3, 16, 1000])
def test_slices_of_any_size_give_the_same(golden, model, positions):
    """A prompt in one pass or position by position."""
    stage = stepper(model)
    wanted = prompt("voice_role")
    stage.open(2, GREEDY)
    while not stage.advance_prompt(2, wanted, positions):
        pass
    stage.begin(2, wanted)
    assert agrees(run_frames(stage, 2, golden["voice_role_user"]), golden, "voice_role")


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("pair", [("voice_role", "file"), ("file_role", "voice"), ("role", "file_role")])
def test_two_personas_in_one_batch_say_what_each_says_alone(golden, model, pair, compiles):
    """With a third lane that joins and leaves, and one whose prompt is computed meanwhile, slice by slice."""
    stage = stepper(model, compiles=compiles)
    runs = dict(zip((0, 2), pair, strict=True))
    for lane, run in runs.items():
        begin(stage, lane, GREEDY, prompt(run))
    found: dict[int, tuple[list[int], list[list[int]]]] = {lane: ([], []) for lane in runs}
    later = prompt("role")
    stage.open(3, GREEDY)
    for index in range(len(golden["file_user"])):
        lanes = list(runs)
        if index == 5:
            stage.open(1, GREEDY)
        if 5 <= index < 30:
            lanes = [0, 1, 2]
        if index == 30:
            stage.close(1)
        if index > 10 and index % 2:
            stage.advance_prompt(3, later, 4)
        users = {lane: golden[f"{run}_user"][index] for lane, run in runs.items()} | {
            1: golden["plain_user"][index]
        }
        steps = stage.step(lanes, np.stack([users[lane] for lane in lanes]).astype(np.int32))
        for lane, step in zip(lanes, steps, strict=True):
            if lane in found:
                found[lane][0].append(step.token)
                found[lane][1].append(step.codes.tolist())
    for lane, run in runs.items():
        assert agrees(found[lane], golden, run)
    stage.begin(3, later)
    assert agrees(run_frames(stage, 3, golden["role_user"]), golden, "role")


def test_a_persona_is_gone_with_its_session(golden, model):
    """The next session in its lane has none, or its own."""
    stage = stepper(model, lanes=1)
    begin(stage, 0, GREEDY, prompt("voice_role"))
    run_frames(stage, 0, golden["voice_role_user"][:9])
    stage.close(0)
    stage.open(0, GREEDY)
    assert run_frames(stage, 0, golden["plain_user"][:-1])[1] == golden["plain_out"][:, 1:9].tolist()
    stage.close(0)
    begin(stage, 0, GREEDY, prompt("role"))
    assert agrees(run_frames(stage, 0, golden["role_user"]), golden, "role")


def test_a_kept_prompt_is_not_computed_again(golden, model, monkeypatch):
    """The second session begins with a copy, and says the same; one that was dropped is computed again."""
    passes = []
    prefill = LmModel.prefill
    monkeypatch.setattr(
        LmModel, "prefill", lambda self, x, *rest: (passes.append(x.shape[1]), prefill(self, x, *rest))[1]
    )
    stage = stepper(model)
    wanted = prompt("role")
    for lane in range(3):
        begin(stage, lane, GREEDY, wanted)
        assert agrees(run_frames(stage, lane, golden["role_user"]), golden, "role")
    assert sum(passes) == 12 + len(wanted.role)
    small = stepper(model, prompt_cache_bytes=1)
    for lane, run in enumerate(("role", "voice", "role")):
        begin(small, lane, GREEDY, prompt(run))
        assert agrees(run_frames(small, lane, golden[f"{run}_user"]), golden, run)
    assert sum(passes) > 3 * 12


def test_a_prompt_that_is_dropped_before_its_session_begins_is_not_lost(golden, model, monkeypatch):
    """Another session's took its place in the meantime; nothing of it is computed again."""
    stage = stepper(model, prompt_cache_bytes=stepper_bytes(model))
    stage.open(0, GREEDY)
    while not stage.advance_prompt(0, prompt("role"), 8):
        pass
    begin(stage, 1, GREEDY, prompt("file"))
    assert "role" not in stage._prompts
    with monkeypatch.context() as patched:  # all of it at once would hold up every other lane
        patched.setattr(LmModel, "prefill", None)
        stage.begin(0, prompt("role"))
    assert agrees(run_frames(stage, 0, golden["role_user"]), golden, "role")
    assert agrees(run_frames(stage, 1, golden["file_user"]), golden, "file")


def test_a_session_that_waits_does_not_keep_a_snapshot(golden, model):
    """One that has begun and sends nothing: its keys and values are in its lane."""
    stage = stepper(model, prompt_cache_bytes=stepper_bytes(model))
    begin(stage, 0, GREEDY, prompt("role"))
    snapshot = weakref.ref(stage._prompts["role"].keys[0])
    begin(stage, 1, GREEDY, prompt("file"))
    gc.collect()
    assert snapshot() is None
    stage.configure(0, GREEDY)
    assert agrees(run_frames(stage, 0, golden["role_user"]), golden, "role")


def test_a_prompt_that_is_larger_than_the_bound_is_not_kept(golden, model):
    """It serves its session; those that fit stay."""
    stage = stepper(model, prompt_cache_bytes=stepper_bytes(model))
    begin(stage, 0, GREEDY, prompt("role"))
    begin(stage, 1, GREEDY, prompt("voice_role"))
    assert "role" in stage._prompts
    assert "voice_role" not in stage._prompts
    assert agrees(run_frames(stage, 1, golden["voice_role_user"]), golden, "voice_role")


def test_sampling_begins_with_the_conversation(golden, model):
    """The same seed gives the same tokens, kept prompt or not; another seed gives others."""
    said = {}
    for name, seed, stage in (("a", 1, stepper(model)), ("b", 1, stepper(model)), ("c", 2, stepper(model))):
        begin(stage, 0, SamplingParams(seed=seed), prompt("role"))
        said[name] = run_frames(stage, 0, golden["role_user"])
    assert said["a"] == said["b"]
    assert said["a"] != said["c"]


def test_the_sampling_may_change_until_the_first_frame(golden, model):
    """What is sampled behind the prompt is sampled anew; nothing of the former sampling remains."""
    stage = stepper(model)
    begin(stage, 0, SamplingParams(seed=1), prompt("role"))
    stage.configure(0, GREEDY)
    assert agrees(run_frames(stage, 0, golden["role_user"]), golden, "role")


def test_a_session_may_choose_again_until_the_first_frame(golden, model):
    """Another prompt, or none, takes the place of the first one."""
    stage = stepper(model)
    begin(stage, 0, GREEDY, prompt("voice_role"))
    stage.begin(0, prompt("role"))
    assert agrees(run_frames(stage, 0, golden["role_user"]), golden, "role")
    begin(stage, 1, GREEDY, prompt("role"))
    stage.begin(1, None)
    assert run_frames(stage, 1, golden["plain_user"][:-1])[1] == golden["plain_out"][:, 1:9].tolist()


def test_a_prompt_that_was_left_halfway_harms_no_other(golden, model):
    """The lane's next session has another prompt, or none."""
    stage = stepper(model)
    stage.open(0, GREEDY)
    assert not stage.advance_prompt(0, prompt("voice_role"), 5)
    assert not stage.advance_prompt(0, prompt("role"), 5)
    stage.begin(0, prompt("role"))
    assert agrees(run_frames(stage, 0, golden["role_user"]), golden, "role")
    stage.open(1, GREEDY)
    stage.advance_prompt(1, prompt("voice"), 5)
    stage.close(1)
    stage.open(1, GREEDY)
    assert run_frames(stage, 1, golden["plain_user"][:-1])[1] == golden["plain_out"][:, 1:9].tolist()


@pytest.mark.parametrize("compiles", [False, True])
def test_a_pinned_prompt_changes_nothing_until_the_ring_is_full(golden, model, compiles):
    """Then the official model forgets it, and this one does not."""
    said = {}
    for pins in (False, True):
        stage = stepper(model, compiles=compiles, pins_prompts=pins)
        begin(stage, 1, GREEDY, prompt("file"))
        said[pins] = run_frames(stage, 1, golden["file_user"])
    positions = 12 + 7
    until = model.config.context - positions
    assert said[True][0][:until] == said[False][0][:until]
    assert said[True][1][:until] == said[False][1][:until]
    assert said[True][1] != said[False][1]


@pytest.mark.parametrize("compiles", [False, True])
def test_a_pinned_prompt_stays_in_the_ring(golden, model, compiles):
    """Bit for bit, however many steps pass; the other slots go on being used, and memory is constant."""
    stage = stepper(model, lanes=2, compiles=compiles, pins_prompts=True)
    stage.open(0, GREEDY)
    begin(stage, 1, GREEDY, prompt("file"))
    positions = 12 + 7
    kept = [np.array(ring[1, :, :positions]) for ring in stage._state.keys]
    rest = [np.array(ring[1, :, positions:]) for ring in stage._state.keys]
    shapes = [ring.shape for ring in stage._state.keys]
    for index in range(5 * model.config.context):
        user = golden["file_user"][index % 100][None].astype(np.int32)
        stage.step([0, 1] if index % 3 else [1], np.repeat(user, 2 if index % 3 else 1, axis=0))
        if index % 50 == 0:  # a session without a prompt beside it
            stage.open(0, GREEDY)
    for ring, before, others in zip(stage._state.keys, kept, rest, strict=True):
        np.testing.assert_array_equal(np.array(ring[1, :, :positions]), before)
        assert (np.array(ring[1, :, positions:]) != others).any(axis=(0, 2)).all()
    assert [ring.shape for ring in stage._state.keys] == shapes
    stage.close(1)
    stage.open(1, GREEDY)
    assert run_frames(stage, 1, golden["plain_user"][:-1])[1] == golden["plain_out"][:, 1:9].tolist()


@pytest.mark.parametrize("compiles", [False, True])
def test_a_pinned_prompt_is_attended(golden, model, compiles):
    """Long after the ring was full, another prompt in the pinned slots gives other logits."""
    tokens = {}
    for changes in (False, True):
        stage = stepper(model, lanes=1, compiles=compiles, pins_prompts=True)
        begin(stage, 0, GREEDY, prompt("file"))
        run_frames(stage, 0, golden["file_user"][:100])
        if changes:
            keys = [mx.array(np.concatenate([np.array(r[:, :, :19])[..., ::-1], np.array(r[:, :, 19:])], 2))
                    for r in stage._state.keys]  # fmt: skip
            stage._state = stage._state._replace(keys=tuple(keys))
        tokens[changes] = run_frames(stage, 0, golden["file_user"][:40])
    assert tokens[True] != tokens[False]


def test_too_long_a_prompt_is_not_pinned(golden, model):
    """It would leave less than half of the ring to the conversation."""
    stage = stepper(model, pins_prompts=True)
    with pytest.raises(PromptError, match="more than half"):
        begin(stage, 0, GREEDY, prompt("file_role"))


def test_an_impossible_prompt_is_one_sentence(golden, model):
    """Too long for the context, of another model's width, with tokens that there are none of."""
    stage = stepper(model)
    for wanted, reason in (
        (Prompt("long", None, (5,) * 40), "shorten the role"),
        (
            Prompt("wide", Voice(embeddings=np.zeros((4, 99), np.float32), tail=np.zeros((2, 17), np.int32))),
            "width",
        ),
        (Prompt("token", None, (4000,)), "does not have"),
    ):
        with pytest.raises(PromptError, match=reason):
            stage.advance_prompt(0, wanted, 8)
    stage.open(0, GREEDY)
    assert run_frames(stage, 0, golden["plain_user"][:-1])[1] == golden["plain_out"][:, 1:9].tolist()


def test_a_long_session_with_a_pinned_prompt_takes_no_more_memory(model):
    """Thousands of steps, beside others that come and go with prompts; the benchmark takes 200,000."""
    stage = stepper(model, lanes=3, prompt_cache_bytes=10_000, pins_prompts=True)
    endurance = Endurance(stage)
    for number in range(1000):
        endurance.step(number)
    before = mx.get_active_memory()
    for number in range(2000):
        endurance.step(number)
    assert endurance.intact()
    assert mx.get_active_memory() <= 1.01 * before


def test_memory_does_not_grow_with_prompts(golden, model):
    """However many different ones are asked for."""
    stage = stepper(model, prompt_cache_bytes=200_000)
    for index in range(30):
        begin(stage, 0, GREEDY, Prompt(f"role {index}", None, (5, 6, index)))
        stage.close(0)
    assert stage._prompts.size_bytes <= 200_000
    mx.clear_cache()
