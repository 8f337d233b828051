"""Python imports this first: with STADDLE_PEER set, the process talks like a peer of another release."""

import importlib.abc
import importlib.util
import os
import sys


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls `otherpeer.install` once the wire package's upper end has been imported."""

    def find_spec(self, name, path, target=None):
        if name != "staddle.wire.endpoint":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def run_and_install(module):
            run(module)
            import otherpeer

            otherpeer.install(os.environ["STADDLE_PEER"])

        spec.loader.exec_module = run_and_install
        return spec


if os.environ.get("STADDLE_PEER"):
    sys.meta_path.insert(0, _AfterImport())
