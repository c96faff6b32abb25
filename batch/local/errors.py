"""What keeps the local stack from starting. Raised by all of its parts, and caught by whoever starts it."""


class StackError(RuntimeError):
    """The stack cannot start as asked: a port or the data folder is taken, or a program is missing."""
