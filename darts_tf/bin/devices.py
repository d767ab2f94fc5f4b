"""How a program computes: threads, precision, on which devices; as flags."""

import contextlib
import ctypes
import dataclasses
import os
from typing import Any

from absl import flags

from darts_tf.errors import InputError


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


def define_precision_flag(values: flags.FlagValues) -> None:
    """Defines --mixed_precision."""
    flags.DEFINE_enum(
        "mixed_precision",
        "none",
        ["none", "bfloat16", "float16"],
        "Type of what is computed inside the networks. Weights, statistics and losses stay in "
        "float32, and so do the two passes of --order=second_fd that are subtracted; with float16 "
        "the loss is scaled. Meant for GPUs, where it was not tried; slower on a CPU.",
        flag_values=values,
    )


def define_computation_flags(values: flags.FlagValues) -> None:
    """Defines the flags of how a model of images is computed."""
    define_precision_flag(values)
    flags.DEFINE_bool(
        "jit_compile",
        False,
        "Compiles the steps with XLA; meant for GPUs. XLA has no kernel for the exact second "
        "order's max pooling.",
        flag_values=values,
    )


def define_recompute_flag(values: flags.FlagValues) -> None:
    """Defines --recompute, of programs that search."""
    flags.DEFINE_bool(
        "recompute",
        False,
        "Computes each cell of a supernet again in the backward pass instead of keeping what is "
        "inside: a quarter less memory, and a step takes 27 % longer in first order, 35 % in exact "
        "second order (published supernet, batch 16, on a CPU).",
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
        upper_bound=64,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "sync_batch_norm",
        True,
        "On several devices: whether BatchNorm has the statistics of the whole batch, so that the "
        "number of devices does not matter; otherwise each has those of its part, as PyTorch's "
        "DataParallel, which is faster. Trained language models have no BatchNorm.",
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
        values: Flags defined by `define_strategy_flags`, and by `define_computation_flags` and
            `define_recompute_flag` if the program has them.

    Raises:
        InputError: The strategy cannot be had.
    """
    from darts_tf.training import distribution

    if values.logical_devices:
        keep_freed_memory()
    strategy = distribution.strategy_of(values.strategy, values.logical_devices)
    computation = Computation(
        "recompute" in values and values.recompute,
        "jit_compile" in values and values.jit_compile,
        strategy,
        values.sync_batch_norm,
    )
    if computation.jit_compile and computation.several_devices:
        raise InputError(
            "--jit_compile compiles the steps of one device only: leave it out, or add "
            "--strategy=one_device."
        )
    return computation


def keep_freed_memory() -> None:
    """Lets the C library keep memory that was freed for what is allocated next.

    It gives large pieces back to the system at once, which hands them out again page by page. Of a
    machine's CPU as one device TensorFlow keeps the memory itself; of its logical devices it does
    not, and a step of a search on two of them then takes half as long again.
    """
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries have neither
        library = ctypes.CDLL(None)
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)


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
    if "mixed_precision" in values:
        half = values.mixed_precision != "none"
        policy = f"mixed_{values.mixed_precision}" if half else keras.config.floatx()
        keras.config.set_dtype_policy(policy)  # always: of programs that call each other too
