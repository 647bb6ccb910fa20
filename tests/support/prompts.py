"""A session with a pinned prompt that talks for long, beside others that join and leave."""

import numpy as np

from pipeline.stages.stepper import StepperStage
from pipeline.values import GREEDY, Prompt
from support.personas import golden_prompt

SESSION_STEPS = 250  # of those that join and leave
ROLES = 12
BESIDE = 5  # the others speak in one step of so many


class Endurance:
    """A pinned session in lane 0, and others that come and go in lanes 1 and 2."""

    def __init__(self, stage: StepperStage) -> None:
        self.stage = stage
        wanted = golden_prompt("file")
        stage.open(0, GREEDY)
        stage.begin(0, wanted)
        self.positions = int(stage._state.offsets[0])
        self.before = self.pinned()
        self.users = np.random.default_rng(1).integers(0, 2048, (997, 3, 8)).astype(np.int32)
        self.joined: set[int] = set()

    def pinned(self) -> list[np.ndarray]:
        """Keys and values of the prompt, of every layer."""
        state = self.stage._state
        return [np.array(ring[0, :, : self.positions]) for ring in (*state.keys, *state.values)]

    def intact(self) -> bool:
        """Whether they are as they were, bit for bit."""
        return all(map(np.array_equal, self.pinned(), self.before))

    def step(self, number: int) -> None:
        """One step of the pinned session, in some also of the others; now and then one joins or leaves."""
        lane = 1 + number // SESSION_STEPS % 2
        if number % SESSION_STEPS == 0:
            if lane in self.joined:
                self.stage.close(lane)
            self.stage.open(lane, GREEDY)
            self.joined.add(lane)
            role = number // SESSION_STEPS % ROLES
            if role:
                self.stage.begin(lane, Prompt(f"role {role}", None, (5, 6, role)))
        lanes = [0] if number % BESIDE else [0, *sorted(self.joined)]
        self.stage.step(lanes, self.users[number % len(self.users), lanes])
