"""What a fault is."""


class Fault:
    """One fault: it breaks one part of a running grid, and mends it again.

    No two of one round break the same `part`. `heal` is safe whatever became of `begin`, and while others
    are broken.

    Attributes:
        weight: how often it is drawn, beside the others of its part.
    """

    weight = 1

    def __init__(self, scene, rng, part):
        self.scene, self.grid, self.rng, self.part = scene, scene.grid, rng, part

    def __repr__(self):
        return f"{type(self).__name__}({self.part})"

    @classmethod
    def possible(cls, scene, part):
        """Whether this grid has what it needs."""
        return True

    def ends(self):
        """The parts of the grid whose processes may have ended by it."""
        return set()

    def begin(self):
        """Break it. Raises OSError, StaddleError where that can't be done in this moment."""
        raise NotImplementedError

    def heal(self):
        """Mend it."""
        raise NotImplementedError
