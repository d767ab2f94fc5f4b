"""The one error that a user can cause and mend; every program prints it as one line."""


class InputError(ValueError):
    """What the user gave (an argument, a flag, a file) cannot be used.

    The message says what happened, what was expected, what was received and how to mend it. A
    program prints it without a traceback and exits with code 1; any other exception is a defect and
    keeps its traceback.
    """


class StopRequested(BaseException):
    """A signal asked to stop, and what was done is saved; a program exits with code 75.

    No `Exception`, as KeyboardInterrupt is none: nobody takes it for an error and goes on.
    """


def unknown_name(kind: str, name: object, known) -> InputError:
    """The answer to an unknown name: the known ones.

    Args:
        kind: What the name should have named, for example "primitive".
        name: What was received.
        known: The names that would have been accepted.
    """
    shown = repr(name)
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    return InputError(f"Unknown {kind} {shown}. Known: {', '.join(sorted(map(str, known)))}.")
