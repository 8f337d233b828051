"""Starting one part of a grid by hand, in a cage: limits of its resources, a network of its own."""

import contextlib
import os
import subprocess

from staddle.demo.grid import STADDLE


@contextlib.contextmanager
def caged(scene, part, before):
    """Run `manager` or `agent-NAME` in the foreground of this test, before `up` starts the others.

    Args: before: words before the command, such as `ip netns exec NAME`.
    """
    words = ["manager"] if part == "manager" else ["agent", part.removeprefix("agent-")]
    path = os.path.join(scene.grid.home, "log", f"{part}.out")
    with open(path, "ab") as log:
        child = subprocess.Popen(
            [*before, *STADDLE, "daemon", *words, "--home", scene.grid.home],
            env=scene.grid.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        scene.grid.close()
        child.kill()
        child.wait(10.0)


def first(shell):
    """Words before a command that runs after a line of shell, in the same process."""
    return ["sh", "-c", f'{shell} && exec "$@"', "sh"]


def few_files(count):
    """With a small limit of open files."""
    return first(f"ulimit -n {count}")
