"""What the benchmark times: the steps of each mode, at the published sizes by default."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from typing import Any

from darts_tf import genotype as genotypes
from darts_tf.bin.devices import Computation

IMAGE_SHAPE = (32, 32, 3)
CLASSES = 10
# batch size, then channels and cells of image networks, or width of language models
PUBLISHED = {
    "search": {"batch_size": 64, "init_channels": 16, "layers": 8},
    "train": {"batch_size": 96, "init_channels": 36, "layers": 20},
    "inference": {"batch_size": 64, "init_channels": 36, "layers": 20},
    "data": {"batch_size": 64},
    "search_rnn": {"batch_size": 256, "width": 300},
    "train_rnn": {"batch_size": 64, "width": 850},
}
"""The sizes that a mode has where the flags give none."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The flags that say how large, and which order or genotype."""

    order: str
    genotype: str
    batch_size: int
    init_channels: int
    layers: int
    image_size: int
    width: int
    window: int
    vocabulary: int


@dataclasses.dataclass(frozen=True)
class Workload:
    """Something to time.

    Attributes:
        step: A function of `data`; a `tf.function` is traced on its own first.
        data: Its argument.
        parameters: Number of weights; None without a network.
        units: What is processed: "images" or "tokens", and how many a step.
    """

    step: Callable[[Any], Any]
    data: Any
    parameters: int | None
    units: tuple[str, int]


def search(sizes: Sizes, computation: Computation) -> Workload:
    """A step of the convolutional search."""
    import keras

    import darts_tf

    with computation.scope():
        supernet = darts_tf.Supernet(
            num_classes=CLASSES,
            init_channels=sizes.init_channels,
            num_cells=sizes.layers,
            image_shape=(sizes.image_size, sizes.image_size, 3),
            recompute=computation.recompute,
        )
        model = darts_tf.ArchitectureSearch(supernet, order=sizes.order)
        model.compile(
            optimizer=darts_tf.SGD(),
            arch_optimizer=darts_tf.Adam(),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            sync_batch_norm=computation.sync_batch_norm,
        )
    data = (_images(sizes, 0), _images(sizes, 1))
    step = _training(model, data, computation)
    return Workload(*step, _count(supernet), ("images", sizes.batch_size))


def train(sizes: Sizes, computation: Computation) -> Workload:
    """A step of the training of a derived network, auxiliary head and drop path on."""
    import keras

    import darts_tf

    with computation.scope():
        network = _network(sizes, auxiliary=True)
        network.drop_path_prob.assign(0.2)
        model = darts_tf.ArchitectureEvaluation(network, auxiliary_weight=0.4)
        model.compile(
            optimizer=darts_tf.SGD(),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            sync_batch_norm=computation.sync_batch_norm,
        )
    step = _training(model, _images(sizes, 0), computation)
    return Workload(*step, network.count_weights(), ("images", sizes.batch_size))


def inference(sizes: Sizes, computation: Computation) -> Workload:
    """A batch through the SavedModel of a derived network, loaded as a user of it would."""
    import tensorflow as tf

    import darts_tf
    from darts_tf.data import published_normalization

    preprocessing = published_normalization("cifar10")
    network = _network(sizes, auxiliary=False, preprocessing=preprocessing)
    with tempfile.TemporaryDirectory() as folder:
        darts_tf.export_saved_model(network, f"{folder}/saved_model")
        loaded = tf.saved_model.load(f"{folder}/saved_model")
    images = tf.cast(255 * tf.random.stateless_uniform(_shape(sizes), seed=[0, 0]), tf.uint8)
    units = ("images", sizes.batch_size)

    def serve(images):  # its variables live as long as what was loaded
        return loaded.serve(images)

    return Workload(serve, images, network.count_weights(), units)


def data(sizes: Sizes, computation: Computation) -> Workload:
    """A pair of batches of the search's input pipeline, cropped and flipped."""
    import numpy as np

    import darts_tf
    from darts_tf.data import default_augmentation

    generator = np.random.default_rng(0)
    shape = (25000, sizes.image_size, sizes.image_size, 3)
    halves = [
        (
            generator.integers(0, 256, shape, dtype=np.uint8),
            generator.integers(0, CLASSES, shape[0], dtype=np.int32),
        )
        for _ in range(2)
    ]
    pairs = darts_tf.pair(
        *halves,
        batch_size=sizes.batch_size,
        augmentation=default_augmentation("cifar10", shape[1:]),
    )
    batches = iter(pairs.stream())

    def several(_):  # one alone is over too soon to be timed
        for _ in range(20):
            pair = next(batches)
        return pair

    return Workload(several, None, None, ("images", 2 * 20 * sizes.batch_size))


def search_rnn(sizes: Sizes, computation: Computation) -> Workload:
    """A step of the recurrent search."""
    import darts_tf
    from darts_tf.losses import token_cross_entropy
    from darts_tf.networks.language import RecurrentSupernet

    with computation.scope():
        supernet = RecurrentSupernet(sizes.vocabulary, sizes.width, sizes.batch_size)
        model = darts_tf.ArchitectureSearch(supernet, sizes.order, clip_virtual_step=True)
        model.compile(
            darts_tf.SGD(20.0, 0.0, 5e-7, 0.25),
            darts_tf.Adam(3e-3, 0.9, l2=1e-3),
            token_cross_entropy,
            sync_batch_norm=computation.sync_batch_norm,
        )
    data = (_windows(sizes, 0), _windows(sizes, 1))
    step = _training(model, data, computation)
    return Workload(*step, supernet.count_weights(), _tokens(sizes))


def train_rnn(sizes: Sizes, computation: Computation) -> Workload:
    """A step of the training of a derived language model."""
    import darts_tf
    from darts_tf.networks.language import RecurrentEvaluationNetwork
    from darts_tf.training.language import LanguageModelTraining

    with computation.scope():
        network = RecurrentEvaluationNetwork(
            genotypes.load_genotype(sizes.genotype, "rnn"),
            sizes.vocabulary,
            sizes.width,
            sizes.batch_size,
        )
        model = LanguageModelTraining(network)
        model.compile(darts_tf.SGD(20.0, 0.0, 8e-7, 0.25))
    step = _training(model, _windows(sizes, 0), computation)
    return Workload(*step, network.count_weights(), _tokens(sizes))


MODES = {f.__name__: f for f in (search, train, inference, data, search_rnn, train_rnn)}
"""Every workload by name: functions of the sizes and of how a model is computed."""

ON_SEVERAL_DEVICES = ("search", "train", "search_rnn", "train_rnn")
"""Those that can be divided."""


def _training(model, batch, computation: Computation) -> tuple[Callable[[Any], Any], Any]:
    """A training step of a model, and its argument: a batch, or batches for several devices."""
    import tensorflow as tf

    from darts_tf import replicas

    if not computation.several_devices:
        compiled = computation.jit_compile
        return tf.function(model.train_step, autograph=False, jit_compile=compiled), batch
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    with computation.scope():
        model.build_metrics(batches.element_spec)
    model.make_train_function()
    return model.train_function, iter(replicas.distribute(computation.strategy, batches))


def measure(workload: Workload, steps: int, elapsed: Callable[[], float]) -> dict:
    """Times a first step and then others.

    Args:
        workload: What to do.
        steps: Timed steps, beside the first.
        elapsed: Seconds since the program began.

    Returns:
        start_s, of which trace_s; step_s; graph_nodes: None where nothing is traced.
    """
    nodes, tracing = None, time.perf_counter()
    if hasattr(workload.step, "get_concrete_function"):
        graph = workload.step.get_concrete_function(workload.data).graph.as_graph_def()
        nodes = len(graph.node) + sum(len(f.node_def) for f in graph.library.function)
        del graph
    trace_s, start_s, seconds = time.perf_counter() - tracing, 0.0, []
    for number in range(steps + 1):
        begin = time.perf_counter()
        _wait(workload.step(workload.data))
        seconds.append(time.perf_counter() - begin)
        start_s = start_s if number else elapsed()
    return {
        "start_s": round(start_s, 3),
        "trace_s": round(trace_s, 3),
        "step_s": [round(s, 4) for s in seconds[1:]],
        "graph_nodes": nodes,
    }


def _wait(results) -> None:
    import tensorflow as tf

    for tensor in tf.nest.flatten(results):
        tensor.numpy()


def _network(sizes, auxiliary, preprocessing=None):
    import darts_tf

    return darts_tf.EvaluationNetwork(
        genotypes.load_genotype(sizes.genotype, "cnn"),
        num_classes=CLASSES,
        init_channels=sizes.init_channels,
        num_cells=sizes.layers,
        auxiliary=auxiliary,
        image_shape=(sizes.image_size, sizes.image_size, 3),
        preprocessing=preprocessing,
    )


def _shape(sizes):
    return (sizes.batch_size, sizes.image_size, sizes.image_size, 3)


def _images(sizes, seed):
    import tensorflow as tf

    x = tf.random.stateless_normal(_shape(sizes), seed=[seed, 0])
    return x, tf.random.stateless_uniform(x.shape[:1], [seed, 1], 0, CLASSES, tf.int32)


def _windows(sizes, seed):
    import tensorflow as tf

    shape = (2, sizes.batch_size, sizes.window)
    words = tf.random.stateless_uniform(shape, [seed, 0], 0, sizes.vocabulary, tf.int32)
    return words[0], words[1]


def _tokens(sizes):
    return "tokens", sizes.batch_size * sizes.window


def _count(network) -> int:
    import math

    return sum(math.prod(v.shape) for v in network.network_parameters)
