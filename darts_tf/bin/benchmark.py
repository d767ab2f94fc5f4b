"""Times steps on made-up data: of a search, of a training, of inference, of the input pipeline.

    python -m darts_tf.bin.benchmark --mode=search --order=second_exact --batch_size=16 --steps=3

Prints one JSON object: seconds from the start of the process to the end of the first step
(`start_s`), of which tracing (`trace_s`), of every step behind it, images or tokens a second, the
peak of resident memory, the processor, its instruction sets and whether oneDNN is on. Sizes are
the published ones unless flags say otherwise.

With --repeat each run is a fresh process; --against "COMMAND" runs another command that prints the
same keys in turn with it, and the ratios are its figures divided by ours.
"""

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time

from absl import flags

from darts_tf import processor
from darts_tf.bin import common, devices, workloads
from darts_tf.errors import InputError
from darts_tf.search.orders import ORDERS

COMPARED = ("median_s", "min_s", "start_s", "first_step_s", "peak_rss_mb")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    flags.DEFINE_enum("mode", "search", list(workloads.MODES), "What to time.", flag_values=values)
    flags.DEFINE_enum("order", "first", ORDERS, "Of a search.", flag_values=values)
    flags.DEFINE_string(
        "genotype", "DARTS_V2", "Of a training or inference: a name or a file.", flag_values=values
    )
    common.define_counts(
        values,
        (
            ("batch_size", None, "Images, or rows of a window; as published if not given."),
            ("init_channels", None, "Channels of the first cells; as published if not given."),
            ("layers", None, "Number of cells; as published if not given."),
            ("image_size", 32, "Height and width of the images."),
            ("width", None, "Of embedding and hidden state; as published if not given."),
            ("window", 35, "Words in a row of a window."),
            ("vocabulary", 10000, "Number of words."),
            ("steps", 3, "Timed steps, beside the first."),
            ("repeat", 1, "Number of runs, each a fresh process if more than one."),
        ),
    )
    flags.DEFINE_string(
        "against", None, "Another command that prints such an object.", flag_values=values
    )
    devices.define_device_flags(values)
    devices.define_computation_flags(values)
    devices.define_recompute_flag(values)
    devices.define_strategy_flags(values)


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    if values.repeat > 1 or values.against is not None:
        print(json.dumps(compare(values)))
        return common.DONE
    print(json.dumps(run(values)))
    return common.DONE


def run(values: flags.FlagValues) -> dict:
    """One run in this process."""
    devices.configure_devices(values, branching=not values.mode.endswith("rnn"))
    computation = computation_of(values)
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    sizes = sizes_of(values)
    workload = workloads.MODES[values.mode](sizes, computation)
    measured = workloads.measure(workload, values.steps, seconds_of_process)
    median = statistics.median(measured["step_s"])
    unit, count = workload.units
    return {
        "framework": f"darts_tf, tensorflow {tf.__version__}",
        "mode": values.mode,
        "order": values.order if values.mode.startswith("search") else None,
        "batch_size": sizes.batch_size,
        "parameters": workload.parameters,
        "devices": computation.strategy.num_replicas_in_sync,
        **measured,
        "median_s": round(median, 4),
        "min_s": min(measured["step_s"]),
        f"{unit}_per_s": round(count / median, 2),
        "peak_rss_mb": peak_memory_mb(),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "processor": {
            "model": processor.model_name(),
            "instruction_sets": processor.instruction_sets(),
            "onednn": processor.uses_onednn(),
        },
        "threads": {
            "intra_op": tf.config.threading.get_intra_op_parallelism_threads(),
            "inter_op": tf.config.threading.get_inter_op_parallelism_threads(),
        },
    }


def computation_of(values: flags.FlagValues) -> devices.Computation:
    """On how many devices, and how.

    Raises:
        InputError: There are several, and the mode is not of a training; or there are workers.
    """
    if values.strategy == "multi_worker":
        raise InputError("benchmark times one process: --strategy=multi_worker is not for it.")
    computation = devices.computation_of(values)
    if computation.several_devices and values.mode not in workloads.ON_SEVERAL_DEVICES:
        raise InputError(
            f"--mode={values.mode} runs on one device; on several run "
            f"{', '.join(workloads.ON_SEVERAL_DEVICES)}. Add --strategy=one_device."
        )
    return computation


def sizes_of(values: flags.FlagValues) -> workloads.Sizes:
    """The sizes of the flags, as published where they give none."""
    published = workloads.PUBLISHED[values.mode]
    given = {
        name: values[name].value or published.get(name, 1)
        for name in ("batch_size", "init_channels", "layers", "width")
    }
    return workloads.Sizes(
        order=values.order,
        genotype=values.genotype,
        image_size=values.image_size,
        window=values.window,
        vocabulary=values.vocabulary,
        **given,
    )


def compare(values: flags.FlagValues) -> dict:
    """Runs in fresh processes, in turn with another command's where one is given.

    Raises:
        InputError: A command fails, or does not print one JSON object.
    """
    own = [sys.executable, "-m", "darts_tf.bin.benchmark"]
    for name in sorted(values):
        flag = values[name]
        if flag.present and name not in ("repeat", "against", "flagfile"):
            own.append(flag.serialize())
    commands = {"runs": own}
    if values.against is not None:
        try:
            commands["against"] = shlex.split(values.against)
        except ValueError as error:
            raise InputError(
                f"--against takes a command as you would type it: {error}. Received: "
                f"--against={values.against}."
            ) from error
        if not commands["against"]:
            raise InputError("--against takes a command as you would type it. Received none.")
    found = {name: [] for name in commands}
    for _ in range(values.repeat):
        for name, command in commands.items():
            found[name].append(_object_of(command))
    if values.against is None:
        return found
    found["ratios"] = {}
    for key in COMPARED:
        pairs = [
            (other[key], ours[key])
            for ours, other in zip(found["runs"], found["against"], strict=True)
            if key in ours and key in other
        ]
        if pairs:
            ratios = [round(other / ours, 3) for other, ours in pairs]
            found["ratios"][key] = {"median": statistics.median(ratios), "all": ratios}
    return found


def _object_of(command: list[str]) -> dict:
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise InputError(
            f"The command {shlex.join(command)} cannot be run: {error.strerror}. --against takes a "
            "command as you would type it."
        ) from error
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["it printed no error"])[-1]
        raise InputError(
            f"The command {shlex.join(command)} failed with exit code {result.returncode}: {reason}"
        )
    try:
        found = json.loads(result.stdout)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"The command {shlex.join(command)} must print one JSON object with keys such as "
            f"median_s. Received: {result.stdout.strip()[:80]!r}."
        )
    return found


def peak_memory_mb() -> int:
    """The largest resident memory of this process so far."""
    import resource  # of Unix, as the lock of a work folder is (fcntl)

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1 << 20 if sys.platform == "darwin" else 1 << 10)


def seconds_of_process() -> float:
    """Seconds since this process was started; since this module was imported without /proc."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stat, open("/proc/uptime") as uptime:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
            return float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except OSError:
        return time.perf_counter() - _IMPORTED


_IMPORTED = time.perf_counter()

if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
