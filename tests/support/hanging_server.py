"""A real server whose stepper never returns from a step once the file argv[1] exists."""

import sys
import threading
from pathlib import Path

from pipeline import run
from pipeline.stages.stepper import StepperStage

sign, arguments = Path(sys.argv[1]), sys.argv[2:]
step = StepperStage.step


def hanging_step(self, lanes, codes):
    if sign.exists():
        threading.Event().wait()
    return step(self, lanes, codes)


StepperStage.step = hanging_step
run.run_and_exit(arguments)
