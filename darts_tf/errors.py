"""The one error that a user can cause and mend; every program prints it as one line.

And what most arguments need: the number that was meant, as one of Python's own, so that it neither
overflows nor ends as NumPy's in a file.
"""

import numbers
import operator


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


def whole_number(name: str, value: object, least: int = 1) -> int:
    """A whole number of Python, NumPy or TensorFlow, as an int; booleans and floats are none.

    Args:
        name: What it is called.
        value: What was received.
        least: The smallest that is allowed.

    Raises:
        InputError: It is none, or less.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise InputError(f"{name} must be a whole number of {least} or more. Received: {value!r}.")
    return number


def real_number(name: str, value: object) -> float:
    """A number of Python or NumPy, as a float; booleans are none, and neither is NaN.

    Args:
        name: What it is called.
        value: What was received.

    Raises:
        InputError: It is none.
    """
    # NumPy's scalars and arrays of no dimension.
    plain = (
        value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
    )
    if isinstance(plain, bool) or not isinstance(plain, numbers.Real) or plain != plain:
        raise InputError(f"{name} must be a number. Received: {value!r}.")
    return float(plain)
