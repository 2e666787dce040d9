"""What has to be done to a copy, what is noted about it, and what is removed by a real shell."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qup.api import CopyingType, Parcel
from qup.builtin.folder_tar import write_archive
from qup.errors import HostError
from qup.guest.folders.changes import Changes, find_changes, write_removal
from qup.guest.folders.journal import GONE, UNSURE, pack, unpack
from qup.guest.folders.ways import Way, choose_way
from qup.plugins import Plugins
from qup.trees import Excludes, Leftovers, scan_tree

names = st.binary(min_size=1, max_size=20).filter(
    lambda name: b"\0" not in name and b"/" not in name and name not in (b".", b"..")
)


def never(name: bytes, folder: bool) -> bool:
    return False


def test_new_changed_and_gone() -> None:
    wanted = {b"a": b"f 1", b"b": b"f 2", b"d": b"d 755", b"d/x": b"f 1"}
    known = {b"b": b"f 1", b"d": b"d 755", b"d/x": b"f 1", b"e": b"d 755", b"e/y": b"f 1"}
    changes = find_changes(wanted, known, never)
    assert (changes.send, changes.remove, changes.empty) == ([b"a", b"b"], [b"e/y"], [b"e"])
    assert not find_changes(wanted, wanted, never)


def test_a_folder_that_became_a_file_goes_first_and_the_other_way_round() -> None:
    changes = find_changes({b"x": b"f 1"}, {b"x": b"d 755", b"x/y": b"f 1"}, never)
    assert (changes.remove, changes.empty, changes.send) == ([b"x/y"], [b"x"], [b"x"])
    changes = find_changes({b"x": b"d 755"}, {b"x": b"f 1"}, never)
    assert (changes.remove, changes.send) == ([b"x"], [b"x"])
    assert find_changes({b"x": b"f 1"}, {b"x": b"l 1"}, never).remove == []


def test_what_is_unsure_is_sent_again_and_removed_whatever_it_is() -> None:
    changes = find_changes({b"d": b"d 755"}, {b"d": UNSURE, b"x": UNSURE}, never)
    assert (changes.send, changes.remove, changes.empty) == ([b"d"], [b"x"], [b"x"])


def test_what_is_left_out_now_stays_as_it_is() -> None:
    excludes = Excludes(["*.log"])
    changes = find_changes({}, {b"x.log": b"f 1"}, lambda n, f: excludes.cover(n, folder=f))
    assert not changes


def test_strangers_go_as_a_whole_and_only_if_the_folder_lacks_them() -> None:
    strangers = [b"z", b"z/1", b"z/2", b"a", b"keep.log", b"zz", b".qup", b".qup/x", b"s/.qup"]
    excludes = Excludes(["*.log"])
    changes = find_changes(
        {b"a": b"f 1"},
        {b"a": b"f 1"},
        lambda name, folder: excludes.cover(name, folder=folder),
        strangers,
    )
    assert changes.purge == [b"z", b"zz"]


@given(st.dictionaries(names, st.sampled_from([b"f 1 2 644", b"d 755", b"l 3 4", UNSURE])))
def test_a_journal_says_what_was_written(entries: dict[bytes, bytes]) -> None:
    journal = unpack(pack(entries.items()))
    assert (journal.entries, journal.records) == (entries, len(entries))


def test_later_records_overrule_and_damage_counts_for_nothing() -> None:
    data = pack([(b"a", b"f 1"), (b"b", b"f 1")]) + pack([(b"a", GONE), (b"b", b"f 2")])
    assert unpack(data).entries == {b"b": b"f 2"}
    assert not unpack(data).damaged
    for damaged in (data + b"garbage", data + data[: len(data) // 3], data + bytes(9)):
        journal = unpack(damaged)
        assert (journal.entries[b"b"][:1], journal.damaged) == (b"f", True)
    assert unpack(b"garbage").entries == {}
    assert unpack(data[: len(data) // 2 - 3]).entries.keys() <= {b"a", b"b"}


@pytest.mark.parametrize("name", [b"../x", b"/etc/passwd", b"a/../../b", b"", b".", b"a//b"])
def test_a_journal_leads_nowhere_else(name: bytes) -> None:
    assert unpack(pack([(name, b"f 1")])).entries == {}


SHELLS = [[*shell, "-s"] for shell in (("dash",), ("bash",), ("busybox", "sh"))]


@pytest.mark.parametrize("shell", SHELLS, ids=lambda words: words[0])
def test_removing(tmp_path: Path, shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"no {shell[0]}")
    place = tmp_path / "it's"
    place.mkdir()
    mark = tmp_path / "mark"
    mark.touch()
    os.utime(mark, (1000, 1000))
    odd = [b"a b", b"new\nline", b"bad\xff", b"-rf", b"'\"$(x)", b"many"]
    many = [b"f%d" % number for number in range(250)]
    for name in [*odd, *many, b"changed", b"stays"]:
        path = os.path.join(os.fsencode(place), name)
        with open(path, "w"):
            os.utime(path, (900, 900))
    os.utime(place / "changed", (2000, 2000))
    # Not older than the copying: what was sent tells. A clock here that is ahead of the guest's is
    # no change there.
    unclear = (("longer", 2, 1000), ("as-it-was", 1, 1000), ("ahead", 1, 5000), ("later", 1, 5001))
    for name, size, seconds in unclear:
        (place / name).write_bytes(b"x" * size)
        os.utime(place / name, (seconds, seconds))
    (place / "link").symlink_to("changed")
    (place / "d" / "e").mkdir(parents=True)
    (place / "full" / "of").mkdir(parents=True)
    (place / "theirs" / "x").mkdir(parents=True)
    known = {
        **dict.fromkeys([b"longer", b"as-it-was"], b"f 1 1000999999999 644"),
        **dict.fromkeys([b"ahead", b"later"], b"f 1 5000000000000 644"),
    }
    changes = Changes(
        remove=[*odd, *many, b"changed", b"link", b"not-there", *known],
        empty=[b"full", b"d/e", b"d"],
        purge=[b"theirs"],
    )
    script = b"".join(write_removal(changes, known, str(place), str(mark)))
    done = subprocess.run(shell, input=script, capture_output=True, check=False)
    assert (done.returncode, done.stdout.split()[-1:], done.stderr) == (0, [b"3"], b"")
    assert sorted(os.listdir(place)) == ["changed", "full", "later", "longer", "stays"]


def test_an_archive_has_what_is_there_and_keeps_its_promises(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir(mode=0o555)
    (tmp_path / "x").write_bytes(b"1" * 1000)
    (tmp_path / "link").symlink_to("x")
    long = b"n" * 200 + b"\xff"
    open(os.path.join(os.fsencode(tmp_path), long), "wb").close()
    tree = scan_tree(tmp_path, Excludes(()))
    failed, unsure = Leftovers(), set[bytes]()
    told: list[int] = []
    names = [*tree.entries, b"gone"]
    parts = write_archive(
        Parcel(tmp_path, "/to", names, failed, unsure, lambda count, _: told.append(count))
    )
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts)), errors="surrogateescape") as archive:
        members = {os.fsencode(member.name): member for member in archive}
        assert set(members) == {b"./" + name for name in tree.entries}
        assert members[b"./sub"].mode == 0o755, "or it could not be filled"
        assert members[b"./link"].linkname == "x"
        assert archive.extractfile("./x").read() == b"1" * 1000  # type: ignore[union-attr]
    assert (failed.count, unsure, told[-1]) == (0, {b"gone"}, 5)


def test_a_file_that_shrinks_while_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(b"1" * 5000)
    monkeypatch.setattr("qup.builtin.folder_tar.CHUNK", 1000)
    failed, unsure = Leftovers(), set[bytes]()
    parts = write_archive(Parcel(tmp_path, "/to", [b"x"], failed, unsure, lambda *_: None))
    data = next(parts) + next(parts)
    os.truncate(tmp_path / "x", 1000)
    data += b"".join(parts)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = archive.extractfile("./x").read()  # type: ignore[union-attr]
    assert found == b"1" * 1000 + bytes(4000)
    assert unsure == {b"x"}, "it is sent again next time"


def test_a_way_by_what_both_sides_have() -> None:
    types = cast(Mapping[str, CopyingType], Plugins(installed=False).folder_types)
    ways = [Way(types[name]) for name in ("rsync", "tar", "sftp")]
    way, reason = choose_way(None, frozenset({"rsync", "tar"}), ways)
    assert (way.name, reason) == ("rsync", "")
    way, reason = choose_way(None, frozenset({"tar"}), ways)
    assert (way.name, reason) == ("tar", "not rsync: the guest has no rsync")
    assert choose_way("tar", frozenset({"rsync", "tar"}), ways)[0].name == "tar"
    with pytest.raises(HostError, match="the guest has no rsync"):
        choose_way("rsync", frozenset({"tar"}), ways)
    ways[0] = Way(types["rsync"], "this computer has no rsync")
    way, reason = choose_way(None, frozenset({"rsync", "tar"}), ways)
    assert (way.name, reason) == ("tar", "not rsync: this computer has no rsync")
