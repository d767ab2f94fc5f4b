"""What all programs share: parsing, errors and exit codes, devices."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from darts_tf import files
from darts_tf.bin import flagfiles
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
        arguments: Command line without the program's name; that of the process by default.
    """
    # TensorFlow's start-up notes stay off the terminal; read when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments = sys.argv[1:] if arguments is None else arguments
    values = flags.FlagValues()
    define_flags(values)
    if any(argument in HELP_FLAGS for argument in arguments):
        print(description.strip() + "\n\nFlags:" + values.get_help())
        return DONE
    handler = _stop_at_termination()
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
            f"stopped by {stopped}; what was done is saved. Run the same command again to go on.",
            flush=True,
        )
        return STOPPED
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on.", file=sys.stderr, flush=True)
        return INTERRUPTED
    except Exception as error:
        if multi_worker(values) and _is_of_lost_worker(error):
            _print_error(
                "Another worker was lost: it was killed, or cannot be reached any more. Start all "
                "workers again with the same command; they go on from the last checkpoint. "
                f"{str(error)[:200]}"
            )
            sys.stdout.flush()
            os._exit(WORKER_LOST)  # TensorFlow, when unloaded, would wait for the lost worker
        if not _is_out_of_memory(error):
            raise
        _print_error(
            "Out of memory. Take a smaller --batch_size, or fewer channels or layers; a search of "
            f"images needs less with --recompute. {str(error)[:200]}"
        )
        return USAGE_ERROR
    finally:
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
    line = " ".join(str(error).split())
    line = line if len(line) <= 2000 else f"{line[:2000]} ..."
    # Bytes that are no text are shown as such, whatever the terminal's encoding.
    encoded = f"error: {line}".encode(sys.stderr.encoding or "utf-8", "backslashreplace")
    print(encoded.decode(sys.stderr.encoding or "utf-8"), file=sys.stderr, flush=True)


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
        settings: The dataclass; fields are int, float, bool or str.
        help_texts: Help by field name.
        values: Where to define.
        prefix: Put before each name.
    """
    define = {
        int: flags.DEFINE_integer,
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


def define_saving_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say when checkpoints are taken."""
    flags.DEFINE_float(
        "checkpoint_minutes",
        10.0,
        "Minutes between two checkpoints within an epoch; 0 for one after every step. After every "
        "epoch there is one anyway.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "keep_checkpoints",
        3,
        "How many checkpoints are kept. If the last one is damaged, the one before is used.",
        lower_bound=1,
        flag_values=values,
    )


def saving_of(values: flags.FlagValues):
    """What the flags of `define_saving_flags` say: a `darts_tf.training.checkpoints.Saving`."""
    from darts_tf.training.checkpoints import Saving

    return Saving(values.checkpoint_minutes, values.keep_checkpoints)


def define_device_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say how to compute, not what."""
    flags.DEFINE_bool(
        "deterministic",
        None,
        "Whether the same run gives the same numbers bit for bit, also after it was broken off, "
        "with the same number of threads. By default on a CPU without --jit_compile. A search of "
        "recurrent cells repeats with one thread only, and then has one unless told otherwise.",
        flag_values=values,
    )
    for name, help_text in (
        ("threads", "Number of threads; 0 for all cores."),
        (
            "intra_op_threads",
            "Threads that share one operation. 0: on a CPU one for networks of images, whose cells "
            "have operations for all threads; else TensorFlow's choice.",
        ),
        ("inter_op_threads", "Operations that are computed at a time. 0: as many as --threads."),
    ):
        flags.DEFINE_integer(
            name, 0, help_text, lower_bound=0, upper_bound=1024, flag_values=values
        )
    flags.DEFINE_enum(
        "graph_optimizer",
        "auto",
        ["auto", "on", "off"],
        "TensorFlow's graph optimizer: steps are a few per cent faster with it, the first step "
        "takes twice as long. auto: on for runs of more than 2000 steps.",
        flag_values=values,
    )


def define_computation_flags(values: flags.FlagValues) -> None:
    """Defines the flags of how a model of images is computed."""
    flags.DEFINE_enum(
        "mixed_precision",
        "none",
        ["none", "bfloat16", "float16"],
        "Type of what is computed inside the networks; weights stay in float32. Slower on a CPU "
        "at these sizes. float16 is used without scaling the loss.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "jit_compile",
        False,
        "Compiles the steps with XLA; meant for GPUs. XLA has no kernel for the exact second "
        "order's max pooling.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "recompute",
        False,
        "Computes each cell of a supernet again in the backward pass instead of keeping what is "
        "inside: a quarter less memory, a fifth more time.",
        flag_values=values,
    )


def define_strategy_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say on how many devices a model is trained."""
    flags.DEFINE_string(
        "strategy",
        "auto",
        "On which devices: auto (all GPUs of this machine, or its CPU), one_device, mirrored (as "
        "auto), or multi_worker (the machines of the environment variable TF_CONFIG). Each gets "
        "its part of every batch; the result is the same.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "logical_devices",
        0,
        "Splits the CPU into so many devices and uses them in the place of GPUs, to try several.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "sync_batch_norm",
        True,
        "On several devices: whether BatchNorm has the statistics of the whole batch, so that the "
        "number of devices does not matter; otherwise each has those of its part, as PyTorch's "
        "DataParallel, which is faster and all that the search of a recurrent cell takes; trained "
        "language models have no BatchNorm.",
        flag_values=values,
    )


@dataclasses.dataclass(frozen=True)
class Computation:
    """How a model is computed.

    Attributes:
        recompute: Whether a supernet's cells are computed again in the backward pass.
        jit_compile: Whether XLA compiles the steps.
        strategy: On which devices; None for TensorFlow's choice of one.
        sync_batch_norm: Whether BatchNorm has the statistics of the batch of all devices.
    """

    recompute: bool = False
    jit_compile: bool = False
    strategy: Any = None
    sync_batch_norm: bool = True

    def scope(self) -> contextlib.AbstractContextManager:
        """Within it a model and its optimizers are made."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    @property
    def several_devices(self) -> bool:
        """Whether a batch is divided."""
        return self.strategy is not None and self.strategy.num_replicas_in_sync > 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes; of several workers the first does."""
        from darts_tf.training import distribution

        return self.strategy is None or distribution.is_chief(self.strategy)

    def check_batch(self, flag: str, batch_size: int, examples: int | None = None) -> None:
        """Checks that every device gets an example of each training batch.

        Args:
            flag: What sets the batch size.
            batch_size: Examples in a batch.
            examples: Examples of an epoch, if its last batch may be smaller.

        Raises:
            InputError: There are more devices than examples.
        """
        from darts_tf.training import distribution

        if self.strategy:
            last = (examples or batch_size) % batch_size or batch_size
            distribution.check_batch_size(self.strategy, flag, last)


ONE_DEVICE = Computation()


def computation_of(values: flags.FlagValues) -> Computation:
    """What the flags say; to be asked for before TensorFlow computes anything.

    Args:
        values: Flags defined by `define_strategy_flags`, and `define_computation_flags` if the
            program has them.

    Raises:
        InputError: The strategy cannot be had.
    """
    from darts_tf.training import distribution

    strategy = distribution.strategy_of(values.strategy, values.logical_devices)
    of_images = "recompute" in values
    computation = Computation(
        of_images and values.recompute,
        of_images and values.jit_compile,
        strategy,
        values.sync_batch_norm,
    )
    if computation.jit_compile and computation.several_devices:
        raise InputError(
            "--jit_compile compiles the steps of one device only: leave it out, or add "
            "--strategy=one_device."
        )
    return computation


def configure_devices(
    values: flags.FlagValues, steps: int = 0, branching: bool = True, one_thread: bool = False
) -> None:
    """Applies the device flags. To be called before TensorFlow computes anything.

    A second call, when the number of steps is known, leaves the threads as they are.

    Args:
        values: Flags defined by `define_device_flags`.
        steps: Steps that the run will take; decides --graph_optimizer=auto.
        branching: Whether the model has many operations that do not wait for each other, as cells
            have. On a CPU each thread then has operations of its own. Threads that share one
            hand it over and wait at its end: at these sizes that costs more than it gains.
        one_thread: Whether the model's numbers repeat, bit for bit, only if one thread computes
            them; where they are to repeat there is one by default.

    Raises:
        InputError: Two flags exclude each other.
    """
    import keras
    import tensorflow as tf

    threads = tf.config.threading
    gpus = tf.config.list_physical_devices("GPU")
    compiled = "jit_compile" in values and values.jit_compile
    if values.deterministic and compiled:
        raise InputError("--deterministic and --jit_compile exclude each other: leave one out.")
    deterministic = values.deterministic
    if deterministic is None:
        deterministic = not gpus and not compiled
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    intra, inter = values.intra_op_threads, values.inter_op_threads or values.threads
    if deterministic and one_thread and not values.threads:
        intra, inter = intra or 1, inter or 1
    if branching and not gpus:
        intra, inter = intra or 1, inter or os.cpu_count()
    intra = intra or values.threads
    # Threads cannot be changed once devices are in use, as when programs call each other.
    with contextlib.suppress(RuntimeError):
        if intra and intra != threads.get_intra_op_parallelism_threads():
            threads.set_intra_op_parallelism_threads(intra)
        if inter and inter != threads.get_inter_op_parallelism_threads():
            threads.set_inter_op_parallelism_threads(inter)
    optimize = {"auto": steps > 2000, "on": True, "off": False}[values.graph_optimizer]
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not optimize})
    if "mixed_precision" in values and values.mixed_precision != "none":
        keras.config.set_dtype_policy(f"mixed_{values.mixed_precision}")
