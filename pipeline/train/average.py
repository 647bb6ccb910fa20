"""`python -m pipeline.train.average`: the mean of two checkpoint folders' language models.

    python -m pipeline.train.average --of build/train/one --and build/train/other --to build/train/tiny

Of a model and the same model trained further on something else; the mean often keeps what either can
do. Source: Wortsman et al. 2022, "Model soups"; Izmailov et al. 2018, "Averaging weights leads to wider
optima". Everything but the language model's weights is the second folder's.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save_file

from pipeline.system.outputs import OutputFile
from pipeline.train.runs.checkpoints import RunError
from pipeline.train.runs.command import run

_LANGUAGE = "model.safetensors"


def average(arguments: argparse.Namespace) -> None:
    """Write the folder.

    Raises:
        RunError: the two are not of one architecture.
    """
    before, after = (load_file(folder / _LANGUAGE) for folder in (arguments.of, arguments.after))
    shapes = [{name: tensor.shape for name, tensor in each.items()} for each in (before, after)]
    if shapes[0] != shapes[1]:
        raise RunError(f"{arguments.of} and {arguments.after} are of different architectures")
    arguments.to.mkdir(parents=True, exist_ok=True)
    for path in arguments.after.iterdir():
        if path.is_file() and path.name != _LANGUAGE:
            shutil.copyfile(path, arguments.to / path.name)
    mean = {
        name: before[name].float().lerp(tensor.float(), arguments.share).to(tensor.dtype).contiguous()
        for name, tensor in after.items()
    }
    with OutputFile(arguments.to / _LANGUAGE) as output:
        save_file(mean, output.path)
        output.commit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train.average", description="Average two language models."
    )
    parser.add_argument("--of", metavar="DIR", type=Path, required=True, help="a checkpoint folder")
    parser.add_argument("--and", metavar="DIR", type=Path, required=True, dest="after", help="another")
    parser.add_argument("--share", type=float, default=0.5, help="of the second one (default 0.5)")
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="the folder to write")
    return run(partial(average, parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
