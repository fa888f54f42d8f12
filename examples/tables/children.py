"""A command in a process of its own, to which Ctrl-C and SIGTERM are passed on."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType

from recipe.stopping import SIGNALS, Stopped


def run_child(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command to its end; return its exit code (negative: the signal that ended it).

    A signal goes to the child alone, once: it has a session of its own, so that a terminal's Ctrl-C does not reach it
    by another way too.

    Args:
        command: and its arguments.
        environment: variables beside those of this process.

    Raises: Stopped when the child has ended after a signal that this process got.
    """
    received: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def pass_on(which: int, frame: FrameType | None) -> None:
        received.append(which)
        if child is not None and child.poll() is None:
            child.send_signal(which)

    previous = {which: signal.signal(which, pass_on) for which in SIGNALS}
    try:
        if not received:
            child = subprocess.Popen(command, env={**os.environ, **(environment or {})}, start_new_session=True)
            if received and child.poll() is None:  # between the start of the child and its name
                child.send_signal(received[-1])
            child.wait()
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)
    if received or child is None:
        raise Stopped(128 + received[-1])
    return child.returncode
