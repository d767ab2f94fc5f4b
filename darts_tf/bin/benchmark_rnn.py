"""Times the steps of a recurrent search or of a language model's training, on random words.

    python -m darts_tf.bin.benchmark_rnn --mode=search_rnn --order=second_exact

Prints one JSON object. The first step, with all building and tracing, is `start_s`; the others are
`step_s`.
"""

import json
import platform
import resource
import statistics
import sys
import time

from absl import flags

from darts_tf import genotype as genotypes
from darts_tf.bin import common

MODES = ("search_rnn", "train_rnn")


def search_model(order: str, width: int, batch_size: int, vocabulary: int):
    """The published search, compiled; at its full size with the default values of the flags."""
    import darts_tf
    from darts_tf.losses import token_cross_entropy
    from darts_tf.networks.language import RecurrentSupernet

    supernet = RecurrentSupernet(vocabulary, width, batch_size)
    model = darts_tf.ArchitectureSearch(supernet, order, clip_virtual_step=True)
    model.compile(
        darts_tf.SGD(20.0, 0.0, 5e-7, 0.25),
        darts_tf.Adam(3e-3, 0.9, l2=1e-3),
        token_cross_entropy,
    )
    return model, supernet


def train_model(genotype: str, width: int, batch_size: int, vocabulary: int):
    """The published training of a derived cell, compiled."""
    import darts_tf
    from darts_tf.networks.language import RecurrentEvaluationNetwork
    from darts_tf.training.language import LanguageModelTraining

    network = RecurrentEvaluationNetwork(
        genotypes.resolve(genotype, "rnn"), vocabulary, width, batch_size
    )
    model = LanguageModelTraining(network)
    model.compile(darts_tf.SGD(20.0, 0.0, 8e-7, 0.25))
    return model, network


def measure(
    mode: str,
    order: str = "first",
    genotype: str = "DARTS_V2",
    width: int = 300,
    batch_size: int = 256,
    window: int = 35,
    vocabulary: int = 10000,
    steps: int = 3,
    started: float | None = None,
) -> dict:
    """Times steps; returns what the program prints.

    Args:
        mode: "search_rnn" or "train_rnn".
        order: Of the search.
        genotype: Of the training; a name of the zoo or a file.
        width, batch_size, window, vocabulary: The sizes.
        steps: Timed steps, beside the first.
        started: `time.perf_counter()` at the beginning; now, if not given.
    """
    started = time.perf_counter() if started is None else started
    import keras
    import numpy as np
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)

    def half():
        words = generator.integers(0, vocabulary, (2, batch_size, window), dtype=np.int32)
        return tf.constant(words[0]), tf.constant(words[1])

    if mode == "search_rnn":
        model, network = search_model(order, width, batch_size, vocabulary)
        data = (half(), half())
    else:
        model, network = train_model(genotype, width, batch_size, vocabulary)
        data = half()
    step = tf.function(model.train_step, autograph=False)
    tracing = time.perf_counter()
    concrete = step.get_concrete_function(data)
    trace_s = time.perf_counter() - tracing
    seconds = []
    for number in range(steps + 1):
        start = time.perf_counter()
        logs = step(data)
        float(logs["loss"])  # waits for the result
        seconds.append(time.perf_counter() - start)
        if number == 0:
            start_s = time.perf_counter() - started
    timed = seconds[1:]
    return {
        "mode": mode,
        "order": order if mode == "search_rnn" else None,
        "parameters": network.count_weights(),
        "start_s": round(start_s, 3),
        "trace_s": round(trace_s, 3),
        "step_s": [round(s, 3) for s in timed],
        "median_s": round(statistics.median(timed), 3),
        "min_s": round(min(timed), 3),
        "tokens_per_s": round(window * batch_size / statistics.median(timed), 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "graph_nodes": graph_nodes(concrete),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
    }


def graph_nodes(concrete) -> int:
    """The nodes of a traced function and of all functions that it calls."""
    graph = concrete.graph.as_graph_def()
    return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    flags.DEFINE_enum("mode", "search_rnn", MODES, "What is timed.", flag_values=values)
    flags.DEFINE_enum(
        "order",
        "first",
        ["first", "second_fd", "second_exact"],
        "Architecture gradient of the search.",
        flag_values=values,
    )
    flags.DEFINE_string("genotype", "DARTS_V2", "Cell of the training.", flag_values=values)
    for name, value, text in (
        ("width", None, "Of embedding and hidden state; 300 for a search, 850 for a training."),
        ("batch_size", None, "Rows of a window; 256 for a search, 64 for a training."),
        ("window", 35, "Words in a row of a window."),
        ("vocabulary", 10000, "Number of words."),
        ("steps", 3, "Timed steps, beside the first."),
    ):
        flags.DEFINE_integer(name, value, text, lower_bound=1, flag_values=values)
    common.define_device_flags(values)


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    started = time.perf_counter()
    common.configure_devices(values)
    searching = values.mode == "search_rnn"
    found = measure(
        values.mode,
        values.order,
        values.genotype,
        values.width or (300 if searching else 850),
        values.batch_size or (256 if searching else 64),
        values.window,
        values.vocabulary,
        values.steps,
        started,
    )
    print(json.dumps(found))
    return common.DONE


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
