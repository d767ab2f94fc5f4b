"""Checks of a whole search step: what it moves, and what it leaves alone."""

from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from darts_tf.search.architecture_search import ArchitectureSearch
from darts_tf.search.verification import Check


def step_checks(search: ArchitectureSearch, train, validation) -> Iterator[Check]:
    """One step of a compiled search: it moves everything that it should and nothing else.

    Args:
        search: Compiled with optimizers without weight decay, which would move everything by
            itself. It is changed.
        train, validation: Batches (x, y).
    """
    supernet = search.supernet
    architecture, weights = supernet.architecture_parameters, supernet.network_parameters
    ids = set(map(id, architecture))
    state = [v for v in supernet.non_trainable_variables if id(v) not in ids]
    train, validation = (tuple(map(tf.convert_to_tensor, batch)) for batch in (train, validation))
    before = [[v.numpy() for v in group] for group in (architecture, weights, state)]

    step = tf.function(lambda: search.train_step((train, validation)), autograph=False)
    step()
    for kind, group, old in zip(
        ("architecture parameters", "weight variables"),
        (architecture, weights),
        before,
        strict=False,
    ):
        names = [v.path for v, value in zip(group, old, strict=True) if _unmoved(v, value)]
        yield Check(f"{kind} that a step does not move", len(names), 0, _some(names))
    unmoved = sum(
        int(np.sum(v.numpy() == value)) for v, value in zip(architecture, before[0], strict=True)
    )
    yield Check("entries of alpha that a step does not move", unmoved, 0)

    # What one pass at the old weights and the new alphas leaves behind: the weight step alone.
    @tf.function(autograph=False)
    def weight_step():
        held = {id(v): tf.constant(value) for v, value in zip(state, before[2], strict=True)}
        _, after = supernet.stateless_call(
            [tf.constant(value) for value in before[1]],
            [held.get(id(v), tf.convert_to_tensor(v)) for v in supernet.non_trainable_variables],
            train[0],
            training=True,
        )
        return after

    expected = zip(supernet.non_trainable_variables, weight_step(), strict=True)
    errors = {
        v.path: np.max(np.abs(v.numpy().astype("float64") - np.asarray(value, "float64")))
        for v, value in expected
        if id(v) not in ids
    }
    wrong = [path for path, error in errors.items() if not error <= 1e-10]
    figure = float(max(errors.values(), default=0.0))
    yield Check("running statistics: those of the weight step alone", figure, 1e-10, _some(wrong))


def _unmoved(variable: keras.Variable, old: np.ndarray) -> bool:
    return np.array_equal(variable.numpy(), old)


def _some(names: Sequence[str]) -> str:
    """The first names of a list that may be long."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
