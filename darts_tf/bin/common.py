"""What all programs share: parsing, settings as flags, errors and exit codes."""

import dataclasses
import json
import math
import os
import pathlib
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping

from absl import flags

from darts_tf import files, processor
from darts_tf.bin import flagfiles
from darts_tf.bin.quiet import quiet_tensorflow
from darts_tf.errors import InputError, StopRequested

DONE, USAGE_ERROR, WORKER_LOST, STOPPED, INTERRUPTED = 0, 1, 69, 75, 130
"""Exit codes: done; a usage error in one line; another worker was lost (run all again); stopped by
a signal after saving (run it again); interrupted before there was anything to save, or by a second
interrupt."""

LARGEST_WHOLE, MOST_SEED = 10**6, 2**31 - 1
"""The largest value of a setting that is a whole number, and of a seed."""

HELP_FLAGS = ("--help", "-h", "-help", "--helpfull", "--helpshort")


def run(
    description: str,
    define_flags: Callable[[flags.FlagValues], None],
    main: Callable[[flags.FlagValues], int | None],
    arguments: list[str] | None = None,
) -> int:
    """Runs a program and returns its exit code.

    Each call parses into flags of its own, so that programs can call and test each other in one
    process.

    Args:
        description: What the program does; the first lines of its help.
        define_flags: Defines the program's flags.
        main: The program; returns an exit code, None for 0.
        arguments: Command line without the program's name; that of the process by default, which
            then ends here when it is stopped by a signal.
    """
    quiet_tensorflow()
    processor.turn_onednn_on()
    of_process = arguments is None
    arguments = sys.argv[1:] if of_process else arguments
    values = flags.FlagValues()
    define_flags(values)
    if any(argument in HELP_FLAGS for argument in arguments):
        print(description.strip() + "\n\nFlags:" + values.get_help())
        return DONE
    handler, form = _stop_at_termination(), warnings.formatwarning
    # A user of a program is told what, and not by which line of ours.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {_one_line(message)}\n"
    try:
        flagfiles.check(arguments)
        try:
            rest = values(["program", *arguments])[1:]
        except RecursionError as error:  # absl's search for a name that is nearly this one
            raise InputError(
                "The name of a flag has hundreds of characters; no flag has. Every argument is a "
                "flag, --name=value."
            ) from error
        _check_values(values)
        if rest:
            raise InputError(
                f"Unexpected argument {rest[0]!r}. Every argument is a flag, --name=value; in "
                "a flagfile every line is one."
            )
        return main(values) or DONE
    except (flags.Error, InputError) as error:
        _print_error(error)
        return USAGE_ERROR
    except OSError as error:
        if error.errno not in files.REFUSALS:
            raise
        # What writes by itself says so itself; this is what is left, such as a folder to be made.
        _print_error(files.cannot_write(error.filename or "a file", error))
        return USAGE_ERROR
    except StopRequested as stopped:
        print(
            f"stopped by {stopped}; what was done is saved. Run the same command again to resume.",
            flush=True,
        )
        # Nothing is left to be written, and whoever stops a run waits for its end: to free its
        # graphs takes seconds. (Other workers, which may still be writing, would miss this one.)
        if of_process and not multi_worker(values):
            os._exit(STOPPED)
        return STOPPED
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume.", file=sys.stderr, flush=True)
        return INTERRUPTED
    except Exception as error:
        if multi_worker(values) and _is_of_lost_worker(error):
            _print_error(
                "Another worker was lost: it was killed, or cannot be reached any more. Start all "
                "workers again with the same command; they resume from the last checkpoint. "
                f"{str(error)[:200]}"
            )
            sys.stdout.flush()
            os._exit(WORKER_LOST)  # TensorFlow, when unloaded, would wait for the lost worker
        if not _is_out_of_memory(error):
            raise
        _print_error(
            "Out of memory. Take a smaller --batch_size, or fewer channels or layers; a search of "
            f"images needs less with --recompute, image data less with --limit. {str(error)[:200]}"
        )
        return USAGE_ERROR
    finally:
        warnings.formatwarning = form
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _stop_at_termination():
    """Has SIGTERM end a program as SIGINT does, with exit code 75; returns what it did before.

    While a model is trained `training.loop` takes both signals over.
    """
    if threading.current_thread() is not threading.main_thread():
        return None  # only there Python handles signals

    def stop(number, frame):
        raise StopRequested(signal.Signals(number).name)

    return signal.signal(signal.SIGTERM, stop)


def _print_error(error: object) -> None:
    line = _one_line(error)
    # Bytes that are no text are shown as such, whatever the terminal's encoding.
    encoded = f"error: {line}".encode(sys.stderr.encoding or "utf-8", "backslashreplace")
    print(encoded.decode(sys.stderr.encoding or "utf-8"), file=sys.stderr, flush=True)


def _one_line(said: object) -> str:
    line = " ".join(str(said).split())
    return line if len(line) <= 2000 else f"{line[:2000]} ..."


def _is_out_of_memory(error: Exception) -> bool:
    # TensorFlow's, by name: a program that failed before it needed TensorFlow does not load it.
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def _check_values(values: flags.FlagValues) -> None:
    """Refuses what flags.txt cannot hold, one flag a line: it would be read back as other flags.

    Raises:
        InputError: A value holds the end of a line, another control character, or no UTF-8; or NaN,
            which absl takes to be within any bounds.
    """
    for name in values:
        value = values[name].value
        if value != value and values[name].parser.lower_bound is not None:
            raise InputError(f"flag --{name}={value}: it must be a number.")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isprintable():
                bad = next(character for character in text if not character.isprintable())
                raise InputError(
                    f"--{name} holds the character {bad!a}, which is not printable. Give a value "
                    "of printable characters."
                )
            if isinstance(text, str) and text != text.strip():
                raise InputError(
                    f"--{name} begins or ends with white space, which a flagfile would lose. "
                    f"Received: --{name}={text!r}."
                )


def multi_worker(values: flags.FlagValues) -> bool:
    """Whether the program is one of several workers."""
    return "strategy" in values and values["strategy"].value == "multi_worker"


def _is_of_lost_worker(error: Exception) -> bool:
    """Whether an error is what TensorFlow's collective operations say of a worker that is gone."""
    import tensorflow as tf

    of_network = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.DeadlineExceededError,
        tf.errors.CancelledError,
    )
    return isinstance(error, of_network)


def define_settings(
    settings: type, help_texts: Mapping[str, str], values: flags.FlagValues, prefix: str = ""
) -> None:
    """Defines one flag for each field of a dataclass, with the field's default.

    Args:
        settings: The dataclass; fields are int (or None), float, bool or str.
        help_texts: Help by field name.
        values: Where to define.
        prefix: Put before each name.
    """
    define = {
        int: flags.DEFINE_integer,
        int | None: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
        str: flags.DEFINE_string,
    }
    for field in dataclasses.fields(settings):
        define[field.type](
            prefix + field.name, field.default, help_texts[field.name], flag_values=values
        )


def settings_of(settings: type, values: flags.FlagValues, prefix: str = ""):
    """The dataclass of its flags.

    Raises:
        InputError: A value is out of its range; the message names the flag.
    """
    names = [field.name for field in dataclasses.fields(settings)]
    try:
        return settings(**{name: values[prefix + name].value for name in names})
    except InputError as error:
        message = str(error)
        for name in names:
            message = re.sub(rf"--{name}\b", f"--{prefix}{name}", message)
        raise InputError(message) from error


def check_ranges(settings: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Checks fields against [smallest, largest]; infinity is never allowed.

    Whole numbers are at most `LARGEST_WHOLE`, or 2^31 - 1 for a seed: what exceeds that is a slip,
    and would end in an error of TensorFlow's.

    Raises:
        InputError: One is out of its range, or not a number; the message names its flag.
    """
    for name, (smallest, largest) in ranges.items():
        value = getattr(settings, name)
        most = MOST_SEED if name.endswith("seed") else LARGEST_WHOLE
        if isinstance(value, int) and value > min(most, largest) >= smallest:
            # As text, because a number of thousands of digits is no float, nor printed at once.
            shown = str(value) if value < 10**40 else f"more than {10**40:g}"
            raise InputError(f"--{name} must be at most {min(most, largest)}. Received: {shown}.")
        if isinstance(value, int) and value < -most:
            value = -math.inf
        if not (smallest <= value <= largest and math.isfinite(value)):
            allowed = (
                f"at least {smallest}" if largest == math.inf else f"in [{smallest}, {largest}]"
            ) + (" and finite" if value == math.inf else "")
            raise InputError(f"--{name} must be {allowed}. Received: --{name}={value}.")


def write_json(path: pathlib.Path, content: Mapping) -> None:
    """Writes a JSON file, atomically."""
    files.write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def define_counts(values: flags.FlagValues, counts: Iterable[tuple[str, int | None, str]]) -> None:
    """Defines flags that are whole numbers of 1 or more: (name, default, help) of each."""
    for name, default, help_text in counts:
        flags.DEFINE_integer(
            name,
            default,
            help_text,
            lower_bound=1,
            upper_bound=LARGEST_WHOLE,
            flag_values=values,
        )
