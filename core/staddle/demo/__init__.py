"""A real grid of real processes in a directory of its own, to be broken: for `staddle demo` and the tests."""
