"""A server one of whose model threads never returns from the step after a file has appeared: argv[1].

All else is the real thing, from the command line on.
"""

import sys
import threading
from pathlib import Path

from pipeline import run
from pipeline.cli.arguments import run_command
from pipeline.stages.stepper import StepperStage

sign, arguments = Path(sys.argv[1]), sys.argv[2:]
step = StepperStage.step


def hanging_step(self, lanes, codes):
    if sign.exists():
        threading.Event().wait()
    return step(self, lanes, codes)


StepperStage.step = hanging_step
run._leave(run_command(lambda: run.main(arguments)))  # as the command itself ends
