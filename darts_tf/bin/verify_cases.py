"""What `verify` checks: small supernets of the package, its primitives, a user's supernet."""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from darts_tf.errors import InputError
from darts_tf.genotype import CNN_PRIMITIVES

SMOOTH, PUBLISHED = "smooth supernet (softplus)", "published supernet (ReLU, max pooling)"
FEW = ("none", "avg_pool_3x3", "skip_connect", "dil_conv_3x3")
"""Primitives without kinks; few, since each is checked on its own too and graphs take time."""


@contextlib.contextmanager
def float64():
    """Makes Keras build in float64, and puts its precision back."""
    import keras

    before = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before[0])
        keras.config.set_floatx(before[1])


def built_in() -> dict[str, tuple]:
    """Both built-in cases by title; each as a user's function returns it."""
    return {SMOOTH: small_supernet(smooth=True), PUBLISHED: small_supernet(smooth=False)}


def small_supernet(smooth: bool):
    """A small supernet with random alphas, and its batches."""
    import keras
    import numpy as np

    from darts_tf.networks.supernet import Supernet

    keras.utils.set_random_seed(3)
    source = np.random.default_rng(3)
    supernet = Supernet(
        num_classes=3,
        init_channels=2,
        num_cells=3,
        num_nodes=1 if smooth else 2,
        image_shape=(8, 8, 3),
        primitives=FEW if smooth else (*FEW, "max_pool_3x3"),
        activation="softplus" if smooth else "relu",
    )
    for alphas in supernet.architecture_parameters:
        alphas.assign(source.normal(scale=0.5, size=alphas.shape))
    train, validation = (
        (source.normal(size=(4, 8, 8, 3)), source.integers(3, size=4)) for _ in range(2)
    )
    return supernet, train, validation


def primitives(names: Sequence[str] = CNN_PRIMITIVES):
    """Checks of the second derivative of primitives, by default the published, at both strides."""
    import numpy as np
    import tensorflow as tf

    from darts_tf.search import verification
    from darts_tf.space.primitives import primitive
    from darts_tf.space.state import State

    source = np.random.default_rng(3)
    for name in names:
        for stride in (1, 2):
            operation = primitive(name)
            shapes = operation.kernels(2, 2, stride)

            def apply(x, *kernels, operation=operation, stride=stride, shapes=shapes):
                named = dict(zip(shapes, kernels, strict=True))
                state = State(stride, whole=x)
                return operation.apply(state, named, normalise, stride, True)

            inputs = [source.normal(size=shape) for shape in ((2, 6, 6, 2), *shapes.values())]
            yield verification.second_derivative_check(
                f"{name}, stride {stride}", apply, [tf.constant(value) for value in inputs]
            )


def normalise(name, x):
    """BatchNorm with the statistics of the batch."""
    from darts_tf.space import functional

    return functional.batch_norm(x)[0]


def users(name: str):
    """What the user's function returns: (supernet, train batch, validation batch[, loss]).

    Raises:
        InputError: There is no such function, it fails, or it returns something else.
    """
    module_name, _, function_name = name.partition(":")
    if not (module_name and function_name):
        raise InputError(
            "--supernet must be module:function, such as my_space:make. "
            f"Received: --supernet={name}."
        )
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"Cannot import {module_name}: {_described(error)}. Modules are looked for in the "
            f"current folder ({folder}) and among the installed packages, by their name with dots "
            "and without .py."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise InputError(
            f"Module {module_name} has no function {function_name!r}. It has: "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    try:
        made = function()
    except Exception as error:
        raise InputError(f"{name} failed: {_described(error)}.") from error
    batches = made[1:3] if isinstance(made, tuple) and len(made) in (3, 4) else ()
    if not batches or not all(isinstance(b, (tuple, list)) and len(b) == 2 for b in batches):
        raise InputError(
            f"{name} must return (supernet, train batch, validation batch) or these and a loss, "
            f"each batch a pair (x, y). Received: {_shown(made)}."
        )
    return made


def _shown(made: object) -> str:
    """What a function returned, by types, two levels deep."""
    if not isinstance(made, (tuple, list)):
        return type(made).__name__
    parts = (
        f"{type(part).__name__} of {len(part)}" if isinstance(part, (tuple, list)) else _shown(part)
        for part in made
    )
    return f"({', '.join(parts)})"


def _described(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error).rstrip('.')} ({last.filename}, line {last.lineno})"


def make_search(supernet, loss=None):
    """A compiled search without weight decay, which would move every weight by itself."""
    import keras

    import darts_tf

    search = darts_tf.ArchitectureSearch(supernet, order="second_fd")
    search.compile(
        optimizer=darts_tf.SGD(0.025, 0.9, l2=0.0, clip_norm=5.0),
        arch_optimizer=darts_tf.Adam(3e-4, l2=0.0),
        loss=loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return search
