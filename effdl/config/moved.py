"""Where classes were that old configs, records and ledgers name: the one table of it."""

# A module's old name and today's. Only the place of a class may change: its name is part of what names runs.
MOVED = {"effdl.training.least_squares": "effdl.least_squares.solvers"}


def today(target: str) -> str:
    """A ``_target_`` by the place that its class has now."""
    module, _, name = target.rpartition(".")
    return f"{MOVED.get(module, module)}.{name}" if module else target
