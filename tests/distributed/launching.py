"""Starts workers in processes of their own, which a hang must not outlive."""

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def launch(*arguments, seconds=240):
    """Runs `python -m *arguments` in the repository; its output if it fails or takes too long."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the workers too
        output, _ = process.communicate()
        raise AssertionError(f"no end after {seconds} s:\n{output[-4000:]}") from None
    assert process.returncode == 0, output[-4000:]
    return output
