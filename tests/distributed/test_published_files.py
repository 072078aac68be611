import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from remdm.distributed.publication import LATEST_FILE, PublicationError, Publisher, Subscriber

LIKE = {"planner": {"w": torch.randn(3, 2), "b": torch.randn(5).bfloat16()}}
FACTS = {"action_names": ["north"], "epoch": 12}
WEIGHTS_FILE = "weights-000000001.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Publisher(tmp_path / "latest").publish(LIKE, FACTS)
    return tmp_path / "latest"


def say(folder: Path, **changes: object) -> None:
    """Make `LATEST.json` say something else, with the right sum."""
    fields = json.loads((folder / LATEST_FILE).read_text()) | changes
    del fields["crc32"]
    fields["crc32"] = f"{zlib.crc32(json.dumps(fields, indent=1).encode()):08x}"
    (folder / LATEST_FILE).write_text(json.dumps(fields, indent=1))


def replace_weights(folder: Path, raw: bytes) -> None:
    """Put other bytes in the place of the weights, with the right sums."""
    (folder / WEIGHTS_FILE).write_bytes(raw)
    say(folder, bytes=len(raw), sha256=hashlib.sha256(raw).hexdigest())


def header_of(raw: bytes) -> dict[str, dict[str, object]]:
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])


def with_header(raw: bytes, fields: object, more: bytes = b"") -> bytes:
    data = raw[8 + int.from_bytes(raw[:8], "little") :]
    head = json.dumps(fields).encode()
    return len(head).to_bytes(8, "little") + head + data + more


def test_any_reader_of_safetensors_opens_the_weights(folder):
    path = folder / json.loads((folder / LATEST_FILE).read_text())["file"]
    loaded = load_file(path)
    assert sorted(loaded) == ["planner/b", "planner/w"]
    assert all(torch.equal(loaded[f"planner/{k}"], v) for k, v in LIKE["planner"].items())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["version"] == "1"
    assert json.loads(metadata["action_names"]) == FACTS["action_names"]


def test_every_tensor_starts_at_a_multiple_of_its_item_size(folder):
    raw = (folder / WEIGHTS_FILE).read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    assert start % 8 == 0
    places = {name: entry["data_offsets"] for name, entry in header_of(raw).items() if "/" in name}
    assert places == {"planner/w": [0, 24], "planner/b": [24, 34]}


@pytest.mark.parametrize(
    ("weights", "facts", "words"),
    [
        ({"a/b": {}}, FACTS, "agent's name must be a word without '/'"),
        ({"a": {"w": torch.zeros(1, dtype=torch.complex64)}}, FACTS, "a/w must be one of F64"),
        ({}, {"epoch": 1}, "facts must hold action_names"),
        ({}, {**FACTS, "x": Path()}, "facts must be what JSON can hold"),
        ({}, {**FACTS, "x": float("nan")}, "facts must be what JSON can hold"),
        ({}, {**FACTS, "x": "y" * (1 << 20)}, "facts must fit into"),
        ({"a": {"w" * (1 << 24): torch.zeros(1)}}, FACTS, "names and shapes must fit into"),
    ],
)
def test_what_cannot_be_read_is_not_published(tmp_path, weights, facts, words):
    with pytest.raises(PublicationError, match=words):
        Publisher(tmp_path).publish(weights, facts)
    assert list(tmp_path.iterdir()) == []


def mutations(whole: bytes) -> Iterator[bytes]:
    """All truncations, a byte too many, and one flipped bit in every byte."""
    for length in range(len(whole)):
        yield whole[:length]
    yield whole + b" "
    for place in range(len(whole)):
        raw = bytearray(whole)
        raw[place] ^= 1 << place % 8
        yield bytes(raw)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (LATEST_FILE, r"LATEST\.json (is damaged: .+|has publication format .+)"),
        (WEIGHTS_FILE, r"weights-000000001\.safetensors is damaged: it (has|does not match) .+"),
    ],
)
def test_no_mutation_of_a_file_is_read(folder, name, reason):
    path, count = folder / name, 0
    whole = path.read_bytes()
    for raw in mutations(whole):
        path.write_bytes(raw)
        with pytest.raises(PublicationError, match=reason):
            Subscriber(folder).read(LIKE)
        count += 1
    assert count > 500
    path.write_bytes(whole)
    assert Subscriber(folder).read(LIKE).version == 1


@pytest.mark.parametrize("text", ["[" * 100_000, '"word"', "[]", "null", "{}", " " * (1 << 20)])
def test_a_latest_of_another_kind_is_refused(folder, text):
    (folder / LATEST_FILE).write_text(text)
    for ask in (Subscriber(folder).version, lambda: Subscriber(folder).read(LIKE)):
        with pytest.raises(PublicationError, match=r"LATEST\.json is damaged"):
            ask()


def test_a_latest_beyond_all_measure_is_not_read_to_its_end(folder):
    with (folder / LATEST_FILE).open("r+b") as file:
        file.truncate(1 << 40)  # takes no room on the disk, but would in memory
    with pytest.raises(PublicationError, match="more than 1048576 bytes"):
        Subscriber(folder).version()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 2}, "has publication format 2, this version of remdm reads 1"),
        ({"version": True}, "no version of the right type"),
        ({"version": "1", "bytes": 1.0}, "no version and no bytes of the right type"),
        ({"facts": None}, "no facts"),
        ({"facts": {}}, r"LATEST\.json is damaged: facts must hold action_names"),
        ({"version": 0, "file": "weights-000000000.safetensors"}, "must be above 0"),
        ({"version": 10**18}, "at most 18 digits"),
        ({"bytes": 1}, r"it has [0-9]+ bytes, LATEST\.json says 1"),
        ({"sha256": "0" * 64}, "does not match the SHA-256 sum"),
        ({"version": 2}, "version 2 must lie in weights-000000002"),
        ({"version": 2, "file": "weights-000000002.safetensors"}, "000002.safetensors, which is"),
        ({"facts": {"action_names": ["south"]}}, r"it says .*north.* says .*south"),
    ],
)
def test_a_latest_that_makes_no_sense_is_refused(folder, changes, words):
    say(folder, **changes)
    with pytest.raises(PublicationError, match=words):
        Subscriber(folder).read(LIKE)


@pytest.mark.parametrize(
    "name",
    [
        f"../{WEIGHTS_FILE}",
        f"below/{WEIGHTS_FILE}",
        f"./{WEIGHTS_FILE}",
        f"..\\{WEIGHTS_FILE}",
        "..",
        "",
        "weights-000000001.safetensors\0",
        "weights-1.safetensors",
        "weights-\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661.safetensors",
        "absolute",
    ],
)
def test_no_name_leads_out_of_the_folder(folder, name):
    whole = (folder / WEIGHTS_FILE).read_bytes()
    (folder / "below").mkdir()
    for other in (folder.parent, folder / "below"):
        (other / WEIGHTS_FILE).write_bytes(whole)
    say(folder, file=str(folder.parent / WEIGHTS_FILE) if name == "absolute" else name)
    with pytest.raises(PublicationError, match=rf"must lie in {WEIGHTS_FILE} beside"):
        Subscriber(folder).read(LIKE)


@pytest.mark.parametrize("name", [LATEST_FILE, WEIGHTS_FILE])
def test_no_link_is_followed_and_no_pipe_waited_for(folder, name):
    outside = folder.parent / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(PublicationError, match="is a link, which could lead out of the folder"):
        Subscriber(folder).read(LIKE)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(PublicationError, match="is not a plain file"):
        Subscriber(folder).read(LIKE)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(PublicationError, match="is not a plain file"):
        Subscriber(folder).read(LIKE)


def test_a_publisher_replaces_a_link_and_leaves_what_it_points_to(folder):
    outside = folder.parent / "outside"
    outside.write_text("precious")
    (folder / LATEST_FILE).unlink()
    (folder / LATEST_FILE).symlink_to(outside)
    assert Publisher(folder).publish(LIKE, FACTS) == 2
    assert outside.read_text() == "precious"
    assert Subscriber(folder).read(LIKE).version == 2


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert Subscriber(tmp_path / "link").read(LIKE).version == 1


def test_weights_removed_while_they_are_opened_are_looked_for_again(folder, monkeypatch):
    # Between reading LATEST.json and opening the weights, a learner publishes as many as it keeps.
    publisher, opened, really_open = Publisher(folder, keep=1), [], os.open

    def open_late(path: Path, *rest: int) -> int:
        if Path(path).name.startswith("weights-") and len(opened) < 3:
            opened.append(path)
            with monkeypatch.context() as patch:
                patch.setattr(os, "open", really_open)
                publisher.publish(LIKE, FACTS)
        return really_open(path, *rest)

    monkeypatch.setattr(os, "open", open_late)
    assert Subscriber(folder).read(LIKE).version == 4
    monkeypatch.setattr(os, "open", really_open)
    (folder / "weights-000000004.safetensors").unlink()
    with pytest.raises(PublicationError, match=r"names weights-000000004\.safetensors, which is"):
        Subscriber(folder).read(LIKE)


# Weights with the right sums that are still not what they should be


@pytest.mark.parametrize("length", [1 << 63, 1 << 25, 1000])
def test_a_header_longer_than_the_file_or_the_limit_is_refused(folder, length):
    raw = (folder / WEIGHTS_FILE).read_bytes()
    more = bytes(1 << 25) if length == 1 << 25 else b""
    replace_weights(folder, length.to_bytes(8, "little") + raw[8:] + more)
    with pytest.raises(PublicationError, match=f"a header of {length} bytes cannot be in its"):
        Subscriber(folder).read(LIKE)


@pytest.mark.parametrize("fields", [[], {}, None, {"__metadata__": 1}, {"__metadata__": {}}])
def test_a_header_of_another_kind_is_refused(folder, fields):
    replace_weights(folder, with_header((folder / WEIGHTS_FILE).read_bytes(), fields))
    with pytest.raises(PublicationError, match=r"its header cannot be read|of itself"):
        Subscriber(folder).read(LIKE)
    replace_weights(folder, b"short")
    with pytest.raises(PublicationError, match="cannot be in its 5 bytes"):
        Subscriber(folder).read(LIKE)


@pytest.mark.parametrize("more", [b"x", b"x" * 100])
def test_bytes_that_no_tensor_declares_are_refused(folder, more):
    raw = (folder / WEIGHTS_FILE).read_bytes()
    replace_weights(folder, raw + more)
    with pytest.raises(PublicationError, match=f"take {len(raw)} of its {len(raw + more)} bytes"):
        Subscriber(folder).read(LIKE)
    replace_weights(folder, raw[:-1])
    with pytest.raises(PublicationError, match=f"take {len(raw)} of its {len(raw) - 1} bytes"):
        Subscriber(folder).read(LIKE)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"shape": [1 << 40, 2]}, r"planner/w is .*1099511627776.* in the file"),
        ({"dtype": "F64"}, r"planner/w is .*F64.* and .*F32.* here"),
        ({"data_offsets": [0, 1 << 50]}, "planner/w is .*in the file"),
        ({"data_offsets": [4, 28]}, "planner/w is .*in the file"),
        ({"data_offsets": None}, "planner/w is .*in the file"),
    ],
)
def test_a_tensor_that_is_declared_otherwise_is_refused(folder, entry, words):
    raw = (folder / WEIGHTS_FILE).read_bytes()
    fields = header_of(raw)
    fields["planner/w"] |= entry
    replace_weights(folder, with_header(raw, fields))
    with pytest.raises(PublicationError, match=f"does not fit this model: .*{words}"):
        Subscriber(folder).read(LIKE)


def test_a_flag_that_is_neither_true_nor_false_is_refused(folder):
    flags = {"planner": {"f": torch.tensor([True, False])}}
    assert Publisher(folder, keep=1).publish(flags, FACTS) == 2
    (path,) = folder.glob("weights-*")
    raw = path.read_bytes()[:-1] + b"\2"
    path.write_bytes(raw)
    say(folder, sha256=hashlib.sha256(raw).hexdigest())
    with pytest.raises(PublicationError, match="planner/f holds more than true and false"):
        Subscriber(folder).read(flags)


def test_a_message_quotes_little_and_nothing_that_a_terminal_obeys(folder):
    strange = "\x1b[2J" * 10_000
    raw = (folder / WEIGHTS_FILE).read_bytes()
    fields = header_of(raw)
    replace_weights(folder, with_header(raw, fields | {strange: strange, "planner/w": strange}))
    told = []
    with pytest.raises(PublicationError, match="does not fit") as caught:
        Subscriber(folder).read(LIKE)
    told.append(str(caught.value))
    for changes in ({"file": strange}, {"facts": {"action_names": strange}}):
        say(folder, **changes)
        with pytest.raises(PublicationError, match="is damaged") as caught:
            Subscriber(folder).read(LIKE)
        told.append(str(caught.value))
    (folder / LATEST_FILE).write_bytes(b"\xff" * 10_000)
    with pytest.raises(PublicationError, match="is damaged") as caught:
        Subscriber(folder).read(LIKE)
    told.append(str(caught.value))
    assert all(words.isprintable() and len(words) < 1000 for words in told), told


@pytest.mark.parametrize(
    ("like", "words"),
    [
        ({"planner": {"w": LIKE["planner"]["w"]}}, r"unknown \['planner/b'\]"),
        ({**LIKE, "baseline": {"w": torch.zeros(1)}}, r"missing \['baseline/w'\]"),
        ({"planner": {**LIKE["planner"], "w": torch.zeros(2, 3)}}, r"\[3, 2\].*file.*\[2, 3\]"),
        ({"planner": {**LIKE["planner"], "b": torch.zeros(5)}}, "BF16.*file.*F32.*here"),
        # Were memory taken for it before it is compared, this would not end well.
        ({"planner": {"w": torch.empty(1 << 45, device="meta")}}, r"config\.gin"),
    ],
)
def test_weights_of_another_model_are_refused(folder, like, words):
    with pytest.raises(PublicationError, match=rf"does not fit this model: .*{words}"):
        Subscriber(folder).read(like)
