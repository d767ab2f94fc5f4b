"""Files of others: what a run writes beside them follows no link, and deletes only its own."""

import os
import threading

import pytest
from absl import flags

from darts_tf import files
from darts_tf.bin import lock, work_folder
from darts_tf.errors import InputError
from darts_tf.training.checkpoints import Checkpoints, Position

OTHERS = "another's work"


@pytest.fixture
def other(tmp_path):
    """A file outside the work folder."""
    path = tmp_path / "other.txt"
    path.write_text(OTHERS)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_that_leads_elsewhere_empties_nothing(link, folder, other):
    link(other, folder / lock.NAME)
    with pytest.raises(InputError, match=r"\.lock.*Remove it, or name another folder"):
        with lock.held(folder):
            raise AssertionError("held")
    assert other.read_text() == OTHERS


@pytest.mark.parametrize("name", ["partial.a.txt", "partial.0123456789abcdef.a.txt", "a.txt"])
def test_no_link_is_followed_where_a_file_is_written(name, folder, other):
    (folder / name).symlink_to(other)
    files.write(folder / "a.txt", "new")
    assert other.read_text() == OTHERS
    assert (folder / "a.txt").read_text() == "new" and not (folder / "a.txt").is_symlink()
    assert name == "a.txt" or (folder / name).is_symlink()


def test_no_link_is_followed_where_a_line_is_added(folder, other):
    (folder / "a.jsonl").symlink_to(other)
    with pytest.raises(InputError, match=r"Cannot write .*a\.jsonl: .* It is a link"):
        files.append(folder / "a.jsonl", "{}")
    assert other.read_text() == OTHERS


def test_two_writers_of_one_file_both_end_and_the_last_stays(folder):
    path = folder / "a.txt"
    with files.replacing(path) as one, files.replacing(path) as two:
        assert one != two
        one.write_text("first to begin, last to end")
        two.write_text("second")
    assert path.read_text() == "first to begin, last to end"
    writers = [
        threading.Thread(target=files.write, args=(path, str(number) * 5000)) for number in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    content = path.read_text()
    assert len(content) == 5000 and len(set(content)) == 1
    assert list(folder.iterdir()) == [path]


def test_a_file_is_as_readable_for_others_as_any_new_one(folder):
    files.write(folder / "a.txt", "x")
    (folder / "b.txt").write_text("x")
    assert (folder / "a.txt").stat().st_mode == (folder / "b.txt").stat().st_mode


def test_of_partial_files_only_those_of_killed_runs_are_removed(folder, other):
    own = files.PARTIAL + "0123456789abcdef.000001-00000002.checkpoint"
    for stage in ("", "search"):
        (folder / stage / "checkpoints").mkdir(parents=True)
        for name in (own, "partial.checkpoint", "partial.notes.txt", "partial.0123.checkpoint"):
            (folder / stage / "checkpoints" / name).write_text(OTHERS)
    (folder / "partial.0123456789abcdef.flags.txt").write_text("--ha")
    values = flags.FlagValues()
    work_folder.define_flag(values)
    values(["program", f"--workdir={folder}"])
    assert not (folder / "flags.txt").exists()
    with pytest.raises(InputError, match="is not empty"), work_folder.prepared(values):
        raise AssertionError("mixed with something else")
    (folder / "flags.txt").write_text("")
    (folder / "checkpoints" / "partial.fedcba9876543210.link").symlink_to(other)
    with work_folder.prepared(values):
        pass
    left = {p.name for p in folder.rglob("partial.*")}
    assert left == {
        "partial.checkpoint",
        "partial.notes.txt",
        "partial.0123.checkpoint",
        "partial.fedcba9876543210.link",
    }
    assert other.read_text() == OTHERS


def test_a_killed_process_leaves_a_folder_that_is_new(folder):
    for name in (lock.NAME, "partial.0123456789abcdef.flags.txt"):
        (folder / name).write_text("")
    values = flags.FlagValues()
    work_folder.define_flag(values)
    values(["program", f"--workdir={folder}"])
    with work_folder.prepared(values):
        assert {p.name for p in folder.iterdir()} == {lock.NAME, "flags.txt"}


def test_checkpoints_of_other_names_are_left_alone_and_the_newest_is_by_number(folder):
    others = [folder / name for name in ("best.checkpoint", "1-2.checkpoint", "z.checkpoint")]
    for path in others:
        path.write_text(OTHERS)
    kept = Checkpoints(folder, [], keep=2)
    for epoch in (1, 999_999, 1_000_000):
        kept.save(Position(epoch, 0))
    assert Checkpoints(folder, []).restore().position == (1_000_000, 0)
    names = {p.name for p in folder.iterdir()} - {p.name for p in others}
    assert names == {"999999-00000000.checkpoint", "1000000-00000000.checkpoint"}
    assert all(path.read_text() == OTHERS for path in others)
