"""Checks the arrays that users bring; the errors name the argument and the first bad example."""

import numpy as np

from darts_tf.errors import InputError


def checked_half(name: str, examples) -> tuple:
    """The (inputs, labels, weights or None) of one half; raises InputError of anything else."""
    if not isinstance(examples, (tuple, list)) or len(examples) not in (2, 3):
        raise InputError(
            f"{name} must be a tuple (inputs, labels) of two arrays, or with weights of the "
            "examples as a third, or a batched tf.data.Dataset of such; received "
            f"{type(examples).__name__}."
        )
    return (*examples, None)[:3]


def checked_examples(
    name: str, inputs: np.ndarray, labels: np.ndarray, as_images: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The inputs and labels as arrays that can be streamed.

    Args:
        name: What the errors call them, for example "train".
        inputs: (N, ...).
        labels: (N,) or (N, K).
        as_images: Whether the inputs must be images (N, H, W, C).

    Returns:
        The inputs unchanged, and the labels, as int32 if they are integers of shape (N,).

    Raises:
        InputError: Empty, of different lengths, of a wrong rank or type, or not finite.
    """
    try:
        inputs, labels = (np.asarray(part) for part in (inputs, labels))
    except ValueError as error:
        raise InputError(f"{name} holds examples of different shapes: {error}.") from error
    for part, array in (("inputs", inputs), ("labels", labels)):
        if array.dtype.kind not in "biuf":
            raise InputError(f"The {part} of {name} must be numbers; received dtype {array.dtype}.")
    if as_images and inputs.ndim != 4:
        raise InputError(
            f"The inputs of {name} must be images of shape (N, height, width, channels) to be "
            f"augmented; received shape {inputs.shape}."
        )
    if inputs.ndim < 2 or labels.ndim not in (1, 2):
        raise InputError(
            f"{name} must have inputs of shape (N, ...) and labels of shape (N,) or (N, classes); "
            f"received shapes {inputs.shape} and {labels.shape}."
        )
    if len(inputs) != len(labels):
        raise InputError(
            f"{name} has {len(inputs)} inputs but {len(labels)} labels; both must have one entry "
            "for each example."
        )
    if 0 in inputs.shape or 0 in labels.shape:
        raise InputError(
            f"{name} is empty: received shapes {inputs.shape} and {labels.shape}; expected at "
            "least one example."
        )
    for part, array in (("input", inputs), ("label", labels)):
        index = _first_not_finite(array)
        if index is not None:
            raise InputError(
                f"The {part} of example {index} of {name} is not finite (NaN or infinity): repair "
                "or remove that example."
            )
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        labels = labels.astype(np.int32)
    return inputs, labels


def checked_weights(name: str, weights, labels: np.ndarray) -> np.ndarray:
    """Weights of examples as an array float32.

    Args:
        name: What the errors call the data.
        weights: (N,), or like the labels.
        labels: (N, ...).

    Raises:
        InputError: Of another shape or type, negative or not finite.
    """
    weights = np.asarray(weights)
    if weights.dtype.kind not in "biuf" or weights.shape not in (
        labels.shape[:1],
        (len(labels), 1),
        labels.shape,
    ):
        raise InputError(
            f"The weights of {name} must be numbers of shape ({len(labels)},), one for each "
            f"example; received {weights.dtype} of shape {weights.shape}."
        )
    bad = np.argwhere(~((weights >= 0) & np.isfinite(weights)))
    if len(bad):
        raise InputError(
            f"The weight of example {bad[0][0]} of {name} is {weights[tuple(bad[0])]}; expected "
            "finite numbers of 0 or more."
        )
    return weights.astype(np.float32)


def _first_not_finite(array: np.ndarray) -> int | None:
    if array.dtype.kind != "f":
        return None
    # By example, so that no boolean copy of the whole array is made.
    for index, example in enumerate(array):
        if not np.isfinite(example).all():
            return index
    return None
