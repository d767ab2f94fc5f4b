"""Checks the three architecture gradients of this installation, or on a supernet of your own.

    python -m darts_tf.bin.verify
    python -m darts_tf.bin.verify --supernet=my_module:my_function

my_function takes no arguments and returns (supernet, train batch, validation batch[, loss]): a
built Keras model with architecture_parameters, network_parameters and derive(), two batches (x, y)
of NumPy arrays, and a Keras loss, by default the cross-entropy of integer labels and logits. Keras
makes float64 weights while it runs. Exit code 0 if every check holds, else 1.
"""

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Iterable

from absl import flags

from darts_tf.bin import common
from darts_tf.errors import InputError

FAILED = 1
WIDTH = 64
SMOOTH, PUBLISHED = "smooth supernet (softplus)", "published supernet (ReLU, max pooling)"
PRIMITIVES = ("none", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")
"""One of every kind but max pooling, which has kinks; two sizes of a kind are the same code."""


def define_flags(values: flags.FlagValues) -> None:
    """Defines the program's flags."""
    flags.DEFINE_string(
        "supernet",
        None,
        "module:function that makes a supernet and its batches; the built-in ones by default.",
        flag_values=values,
    )
    common.define_device_flags(values)


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


def built_in(smooth: bool):
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
        primitives=PRIMITIVES if smooth else (*PRIMITIVES, "max_pool_3x3"),
        activation="softplus" if smooth else "relu",
    )
    for alphas in supernet.architecture_parameters:
        alphas.assign(source.normal(scale=0.5, size=alphas.shape))
    train, validation = (
        (source.normal(size=(4, 8, 8, 3)), source.integers(3, size=4)) for _ in range(2)
    )
    return supernet, train, validation


def operations():
    """Checks of the second derivative of every primitive at both strides."""
    import numpy as np
    import tensorflow as tf

    from darts_tf.search import verification
    from darts_tf.space.primitives import PRIMITIVES as KNOWN

    source = np.random.default_rng(3)
    for name, primitive in KNOWN.items():
        for stride in (1, 2):
            shapes = primitive.kernels(2, 2, stride)

            def apply(x, *kernels, primitive=primitive, stride=stride, shapes=shapes):
                named = dict(zip(shapes, kernels, strict=True))
                return primitive.apply(x, named, normalise, stride, True, tf.nn.relu)

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


def report(title: str, checks: Iterable) -> list[str]:
    """Prints checks as they are made; returns the names of those that failed."""
    print(f"\n{title:<{WIDTH}}{'figure':>10}{'bound':>10}", flush=True)
    failed = []
    for check in checks:
        bound, state = ("", "") if check.bound is None else (f"{check.bound:.2g}", "ok")
        if not check.passed:
            state = "FAILED"
            failed.append(check.name)
        print(f"  {check.name:<{WIDTH - 2}}{check.figure:>10.2g}{bound:>10}  {state}", flush=True)
        if check.note and not check.passed:
            print(f"    {check.note}", flush=True)
    return failed


def main(values: flags.FlagValues) -> int:
    """Runs the program."""
    common.configure_devices(values)
    from darts_tf.search import verification

    failed = []
    with float64():
        if values.supernet:
            made = {values.supernet: users(values.supernet)}
        else:
            failed += report("toy problem", verification.toy_checks())
            failed += report("second derivatives of the primitives", operations())
            made = {SMOOTH: built_in(smooth=True), PUBLISHED: built_in(smooth=False)}
        for title, (supernet, train, validation, *loss) in made.items():
            search, smooth = make_search(supernet, *loss), title == SMOOTH
            problem = verification.problem_of(search, train, validation)
            failed += report(title, verification.gradient_checks(problem, smooth))
            if not smooth:
                checks = verification.step_checks(search, train, validation)
                failed += report(f"a search step: {title}", checks)
    if failed:
        print(f"\n{len(failed)} FAILED: {'; '.join(failed)}")
        return FAILED
    print("\nall checks hold")
    return common.DONE


if __name__ == "__main__":
    sys.exit(common.run(__doc__, define_flags, main))
