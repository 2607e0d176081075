"""Images to weights: `python model/train.py DATA --variant crossvit_9_dagger --out runs/mine`.

The folder of the run then has model.safetensors with its labels and recipe, as export/to_onnx.py --weights takes them.
The same command resumes a run that was stopped. model/training/command.py has the options, docs/training.md the rest.
"""

import sys

from model.training.command import main

if __name__ == "__main__":
    sys.exit(main())
