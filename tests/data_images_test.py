"""Data sets by name: the digits, tiny data sets in the tensorflow-datasets format, errors."""

import json
import os
import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

from darts_tf.data import load_images, search_split
from darts_tf.data.normalization import normalization, published_normalization
from darts_tf.errors import InputError

REAL = pathlib.Path(
    os.environ.get(
        "DARTS_TF_DATA", pathlib.Path(__file__).resolve().parents[1].parent / "shared" / "data"
    )
)


def pictures(count, side=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), np.uint8)


def store(data_dir, name, splits, shape=(8, 8, 3), version="1.0.0", config=None, text=False):
    """Writes a data set in the tensorflow-datasets format; splits: {name: (images, labels)}."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["cat", "dog", "owl"]),
            **({"image": tfds.features.Text()} if text else {}),
        }
    )
    folder = pathlib.Path(data_dir, name, config or "", version)
    folder.mkdir(parents=True)
    infos = []
    for split, (x, y) in splits.items():
        file = folder / f"{name}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(file)) as writer:
            for image, label in zip(x, y, strict=True):
                example = features.encode_example({"image": image, "label": int(label)})
                writer.write(features.serialize_example(example))
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(y)],
                num_bytes=file.stat().st_size,
                filename_template=tfds.core.ShardedFileTemplate(
                    data_dir=folder, dataset_name=name, split=split, filetype_suffix="tfrecord"
                ),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder), features=features, split_infos=infos, check_data=False
    )


def part(count, seed, **settings):
    return pictures(count, seed=seed, **settings), np.arange(count) % 3


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """One folder with several tiny data sets."""
    root = str(tmp_path_factory.mktemp("prepared"))
    two = {"train": part(20, 1), "test": part(7, 2)}
    store(root, "cifar10", two, version="3.0.2")
    store(root, "three_parts", {**two, "validation": part(5, 3)})
    store(root, "no_test", {"train": part(6, 1), "validation": part(5, 3)})
    store(root, "only_train", {"train": part(6, 1)})
    store(root, "versions", two, version="1.9.0")
    store(root, "versions", {"train": part(9, 4), "test": part(7, 2)}, version="1.10.0")
    mixed = [pictures(1, side)[0] for side in (8, 9, 8)]
    store(root, "sizes", {"train": (mixed, [0, 1, 2]), "test": part(3, 2)}, (None, None, 3))
    store(root, "one_size", {"train": part(4, 1), "test": part(3, 2)}, (None, None, 3))
    store(root, "words", {"train": (["a", "b"], [0, 1]), "test": (["c"], [2])}, text=True)
    store(root, "many", two, config="small")
    store(root, "many", two, config="large")
    return root


def test_digits_are_rescaled_and_divided_by_class():
    from sklearn.datasets import load_digits

    data = load_images("digits")
    parts = (data.train_images, data.validation_images, data.test_images)
    assert [x.shape for x in parts] == [(1077, 8, 8, 1), (360, 8, 8, 1), (360, 8, 8, 1)]
    assert all(x.dtype == np.uint8 for x in parts)
    assert data.train_labels.dtype == np.int32
    assert data.class_names == tuple("0123456789")
    assert (data.image_shape, data.num_classes) == ((8, 8, 1), 10)
    stored = np.sort(np.round(load_digits().images * 255 / 16).reshape(1797, 64), axis=0)
    together = np.sort(np.concatenate(parts).reshape(1797, 64), axis=0)
    np.testing.assert_array_equal(stored, together)
    for labels in (data.train_labels, data.validation_labels, data.test_labels):
        assert (np.abs(np.bincount(labels) / len(labels) - 0.1) < 0.005).all()


def test_digits_parts_are_disjoint_and_cover_everything():
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = np.round(digits.images * 255 / 16).astype(np.uint8).reshape(1797, 64)
    data = load_images("digits")
    got = np.concatenate(
        [x.reshape(-1, 64) for x in (data.train_images, data.validation_images, data.test_images)]
    )
    labels = np.concatenate([data.train_labels, data.validation_labels, data.test_labels])
    # All 1,797 digits differ, so equal multisets of rows mean disjoint parts.
    assert len({row.tobytes() for row in rows}) == 1797
    assert {row.tobytes(): y for row, y in zip(rows, digits.target, strict=True)} == {
        row.tobytes(): y for row, y in zip(got, labels, strict=True)
    }


def test_digits_search_halves_are_its_own_parts_and_limit_keeps_all_classes():
    data, few = load_images("digits"), load_images("digits", limit=100)
    (x, y), (x_valid, y_valid) = data.search_halves(0.9)
    assert (len(x), len(y), len(x_valid), len(y_valid)) == (1077, 1077, 360, 360)
    assert np.bincount(few.train_labels).tolist() == [10] * 10
    rows = {image.tobytes(): label for image, label in zip(x, y, strict=True)}
    for image, label in zip(few.train_images, few.train_labels, strict=True):
        assert rows[image.tobytes()] == label
    first = load_images("digits", limit=100, split="published")
    np.testing.assert_array_equal(first.train_images, data.train_images[:100])
    np.testing.assert_array_equal(few.test_images, data.test_images)


def test_prepared_data_set_comes_in_stored_order(prepared):
    data = load_images("cifar10", prepared)
    x, y = part(20, 1)
    np.testing.assert_array_equal(data.train_images, x)
    np.testing.assert_array_equal(data.train_labels, y)
    assert data.train_labels.dtype == np.int32
    assert data.test_images.shape == (7, 8, 8, 3)
    assert data.validation_images is None
    assert data.class_names == ("cat", "dog", "owl")
    published = published_normalization("cifar10").get_config()
    assert data.normalization.get_config() == published
    few = load_images("cifar10:3.0.2", prepared, limit=6, split="published")
    np.testing.assert_array_equal(few.train_images, x[:6])
    assert len(load_images("cifar10", prepared, limit=999).train_images) == 20


def test_search_halves_of_a_prepared_data_set(prepared):
    data = load_images("cifar10", prepared, split="published")
    (x, _), (x_valid, y_valid) = data.search_halves(0.25)
    np.testing.assert_array_equal(x, data.train_images[:5])
    np.testing.assert_array_equal(x_valid, data.train_images[5:])
    np.testing.assert_array_equal(y_valid, data.train_labels[5:])


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    """A data set that is stored class by class: 20 images of each of three."""
    root, y = str(tmp_path_factory.mktemp("by_class")), np.repeat([0, 1, 2], 20)
    test = (pictures(3), np.arange(3))
    store(root, "sorted", {"train": (pictures(60, seed=1), y), "test": test}, version="1.0.0")
    return root


def test_of_a_set_stored_class_by_class_every_half_and_limit_has_all_classes(by_class):
    data = load_images("sorted", by_class)
    for _, y in data.search_halves():
        assert np.bincount(y).tolist() == [10, 10, 10]
    few = load_images("sorted", by_class, limit=24)
    assert np.bincount(few.train_labels).tolist() == [8, 8, 8]
    whole = {x.tobytes(): y for x, y in zip(data.train_images, data.train_labels, strict=True)}
    assert [whole[x.tobytes()] for x in few.train_images] == few.train_labels.tolist()
    same = load_images("sorted", by_class, limit=24)
    np.testing.assert_array_equal(same.train_images, few.train_images)


def test_the_published_order_is_had_and_what_it_lacks_is_said(by_class):
    with pytest.warns(UserWarning, match="'sorted' lack the classes dog, owl: of 3 classes 1 can"):
        few = load_images("sorted", by_class, limit=10, split="published")
    assert few.train_labels.tolist() == [0] * 10
    with pytest.warns(UserWarning, match="The 2 training images .* lack the class (cat|dog|owl):"):
        load_images("sorted", by_class, limit=2)
    (_, y), (_, y_valid) = load_images("sorted", by_class, split="published").search_halves()
    assert (set(y), set(y_valid)) == ({0, 1}, {1, 2})
    with pytest.raises(InputError, match="Unknown split 'random'. Known: published, stratified"):
        load_images("sorted", by_class, split="random")


def test_validation_parts(prepared):
    three = load_images("three_parts", prepared)
    np.testing.assert_array_equal(three.validation_images, part(5, 3)[0])
    np.testing.assert_array_equal(three.search_halves()[1][0], part(5, 3)[0])
    assert three.normalization.get_config() == normalization(three.train_images).get_config()
    two = load_images("no_test", prepared)
    assert two.validation_images is None
    np.testing.assert_array_equal(two.test_images, part(5, 3)[0])


def test_newest_version_and_undeclared_sizes(prepared):
    assert len(load_images("versions", prepared).train_images) == 9  # 1.10.0 is newer than 1.9.0.
    assert len(load_images("versions:1.9.0", prepared).train_images) == 20
    assert load_images("one_size", prepared).train_images.shape == (4, 8, 8, 3)
    assert len(load_images("many/small", prepared).train_images) == 20


def test_data_dir_defaults_to_that_of_tensorflow_datasets(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", prepared)
    assert len(load_images("cifar10").train_images) == 20


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sizes", "Images of data set 'sizes' must all have one size .* 8x8x3 and 9x9x3"),
        (
            "words",
            "'words' in .* is not image classification: .* found that 'image' is Text, 'lab",
        ),
        ("only_train", "needs a split 'train' and a split 'test' or 'validation'; it has: train"),
        ("many", "has configurations: give one of many/large, many/small; received 'many'"),
        ("versions:2.0.0", "no version 2.0.0 in .*; prepared there: 1.10.0, 1.9.0"),
        ("cifra10", "Unknown data set 'cifra10'. Known: digits .*near matches: .*cifar10"),
        ("qqqq", "Unknown data set 'qqqq'. Known: digits .* such as cifar10, and what is prep"),
        ("thre_parts", "in .*: cifar10, many/large, many/small, no_test, .* matches: three_parts"),
        ("", "name must look like cifar10 or cifar10:3.0.2; received ''"),
        ("imagenet2012_subset/1pct", "'imagenet2012_subset/1pct' does not fit in memory"),
        ("imagenet2012", "does not fit in memory: stream it with imagenet_streams"),
    ],
)
def test_unsuitable_data_sets_get_one_sentence(prepared, name, words):
    with pytest.raises(InputError, match=words) as raised:
        load_images(name, prepared)
    assert "\n" not in str(raised.value)


def test_absent_data_set_names_the_folder_and_the_command(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="was not found") as raised:
        load_images("cifar100", tmp_path)
    message = str(raised.value)
    assert f"'cifar100' was not found in {tmp_path} (nothing is prepared there);" in message
    assert f"tfds.builder('cifar100', data_dir='{tmp_path}').download_and_prepare()" in message
    with pytest.raises(InputError, match="there is no such folder"):
        load_images("cifar100", tmp_path / "nowhere")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"tfds.builder\('mnist'\).download_and_prepare"):
        load_images("mnist")


def rewritten(root, name, change, file="features.json"):
    """Changes a JSON file of the data set."""
    path = next(pathlib.Path(root, name).rglob(file))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_labels_that_are_text_or_numbers_are_said_to_be(tmp_path):
    core = "tensorflow_datasets.core.features."
    for name, label in (
        ("spoken", {"pythonClassName": f"{core}text_feature.Text", "text": {}}),
        ("measured", {"pythonClassName": f"{core}scalar.Scalar", "tensor": {"dtype": "float32"}}),
    ):
        store(tmp_path, name, {"train": part(2, 1), "test": part(2, 2)})
        rewritten(tmp_path, name, lambda c, x=label: c["featuresDict"]["features"].update(label=x))
        kind = label["pythonClassName"].rpartition(".")[2]
        expected = f"expected an Image and a ClassLabel .* 'image' is Image, 'label' is {kind}. Pre"
        with pytest.raises(InputError, match=expected):
            load_images(name, tmp_path)
    rewritten(tmp_path, "spoken", lambda c: c["featuresDict"]["features"].pop("label"))
    with pytest.raises(InputError, match="'label' is not there. Prepare it with"):
        load_images("spoken", tmp_path)


@pytest.mark.parametrize("message", [False, True])
def test_features_in_the_older_form_are_read(tmp_path, message):
    splits = {"train": part(5, 1), "test": part(3, 2)}
    store(tmp_path, "new", splits)
    expected = load_images("new", tmp_path)

    def older(content):
        new = content["featuresDict"]["features"]
        contents = {
            "image": {"shape": [8, 8, 3], "dtype": "uint8", "encoding_format": "png"},
            "label": {"num_classes": 3},
        }
        if message:
            contents = {"image": new["image"]["image"], "label": new["label"]["classLabel"]}
        extra = {"proto_cls": "tensorflow_datasets.ImageFeature"} if message else {}
        old = {
            name: {"type": new[name]["pythonClassName"], "content": value, **extra}
            for name, value in contents.items()
        }
        kind = content["pythonClassName"]
        content.clear()
        content.update(type=kind, content=old)

    rewritten(tmp_path, "new", older)
    found = load_images("new", tmp_path)
    np.testing.assert_array_equal(found.train_images, expected.train_images)
    np.testing.assert_array_equal(found.test_labels, expected.test_labels)
    assert found.class_names == expected.class_names


def test_published_statistics_are_those_of_the_very_set(tmp_path):
    splits = {"train": part(5, 1), "test": part(3, 2)}
    store(tmp_path, "cifar10", splits, config="mine")
    found = load_images("cifar10/mine", tmp_path)
    mean = found.train_images.mean((0, 1, 2))
    np.testing.assert_allclose(found.normalization.input_mean, mean, rtol=1e-6)
    splits = {"train": part(5, 1, channels=1), "test": part(3, 2, channels=1)}
    store(tmp_path, "cifar100", splits, (8, 8, 1))
    assert len(load_images("cifar100", tmp_path).normalization.input_mean) == 1


@pytest.mark.parametrize("name", ["cifar10", "one_size"])
def test_what_does_not_fit_in_memory_is_refused_before_it_is_read(prepared, name, monkeypatch):
    import psutil

    # cifar10: 27 images of 192 bytes; one_size, whose size is not declared: 4.
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=700))
    with pytest.raises(InputError, match="images of 8x8x3 would take .* GiB .* are free. Take few"):
        load_images(name, prepared)
    free = types.SimpleNamespace(available=(2 + 7) * 192)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert len(load_images(name, prepared, limit=2).train_images) == 2


@pytest.mark.parametrize("kind", ["MemoryError", "ResourceExhaustedError"])
def test_out_of_memory_does_not_advise_to_delete_the_data(prepared, kind, monkeypatch):
    def fail(*_, **__):
        if kind == "MemoryError":
            raise MemoryError("Unable to allocate")
        raise tf.errors.ResourceExhaustedError(None, None, "OOM")

    monkeypatch.setattr(np, "empty", fail)
    with pytest.raises(InputError, match="does not fit in memory, .* Take fewer images") as raised:
        load_images("cifar10", prepared)
    assert "delete" not in str(raised.value)


def test_a_stated_count_is_not_believed_beyond_the_files(tmp_path):
    """No memory is asked for a million million images: the files cannot hold them."""
    store(tmp_path, "lying", {"train": part(4, 1), "test": part(3, 2)})

    def lie(content):
        content["splits"][0]["shardLengths"] = ["1000000000000"]

    rewritten(tmp_path, "lying", lie, "dataset_info.json")
    with pytest.raises(InputError, match="cannot be read .* contained only 4 elements"):
        load_images("lying", tmp_path)


def test_damaged_data_set_is_one_sentence(tmp_path):
    store(str(tmp_path), "broken", {"train": part(20, 1), "test": part(7, 2)})
    folder = tmp_path / "broken" / "1.0.0"
    file = next(folder.glob("*train*"))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(InputError, match="cannot be read .*: delete that folder and fetch"):
        load_images("broken", tmp_path)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read .*: delete that folder and fetch"):
        load_images("broken", tmp_path)


def test_search_split_takes_the_first_part_in_order():
    x, y = np.arange(7)[:, None], np.arange(7)
    (a, b), (c, d) = search_split(x, y, 0.5)
    np.testing.assert_array_equal(a[:, 0], [0, 1, 2])
    np.testing.assert_array_equal(b, [0, 1, 2])
    np.testing.assert_array_equal(c[:, 0], [3, 4, 5, 6])
    np.testing.assert_array_equal(d, [3, 4, 5, 6])


@pytest.mark.parametrize("portion", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_search_split_refuses_portions_outside(portion):
    with pytest.raises(InputError, match="train_portion must lie between 0 and 1"):
        search_split(np.zeros((4, 1)), np.zeros(4), portion)


def test_search_split_refuses_an_empty_part():
    with pytest.raises(InputError, match="0.1 of 4 training images leaves one part .* empty"):
        search_split(np.zeros((4, 1)), np.zeros(4), 0.1)


def test_limit_must_be_positive():
    with pytest.raises(InputError, match="limit must be a whole number of 1 or more. Received: 0"):
        load_images("digits", limit=0)


@pytest.mark.skipif(
    not (REAL / "tfds/cifar10/3.0.2/dataset_info.json").is_file(),
    reason="needs CIFAR-10 prepared by tensorflow-datasets in $DARTS_TF_DATA/tfds",
)
def test_real_cifar10():
    data = load_images("cifar10", REAL / "tfds", limit=200, split="published")
    assert data.train_images.shape == (200, 32, 32, 3)
    assert data.test_images.shape == (10000, 32, 32, 3)
    assert data.class_names[0] == "airplane" and data.class_names[9] == "truck"
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    normalised = data.normalization(data.test_images).numpy()
    np.testing.assert_allclose(normalised.mean((0, 1, 2)), 0, atol=0.05)
    np.testing.assert_allclose(normalised.std((0, 1, 2)), 1, atol=0.05)


def test_loading_leaves_the_devices_alone():
    """In-memory data is NumPy: nothing of it occupies a GPU."""
    data = load_images("digits")
    assert isinstance(data.train_images, np.ndarray) and not tf.is_tensor(data.train_labels)
