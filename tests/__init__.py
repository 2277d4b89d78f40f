"""One thread for torch, as the command has it: set before anything imports it, or two busy processes wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
