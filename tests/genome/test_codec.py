"""Genomes and weights survive storage whole; whatever else a file holds is refused with one line."""

from __future__ import annotations

import errno
import json
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evometa.errors import GenomeError
from evometa.genome.codec import (
    FORMAT,
    METADATA_KEY,
    VERSION,
    content_hash,
    genome_from_json,
    genome_to_json,
    load_genome,
    save_genome,
    weights_from_bytes,
    weights_to_bytes,
)
from evometa.genome.genome import Genome, Lineage

FILES = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.booleans() | st.integers() | finite | texts | st.lists(texts, max_size=3).map(tuple)
lineages = st.builds(
    Lineage,
    parents=st.lists(texts, max_size=3).map(tuple),
    operator=texts,
    generation=st.integers(0, 10**6),
    weights=texts,
)
genomes = st.builds(
    Genome,
    id=texts,
    family=texts,
    genes=st.dictionaries(texts, values, max_size=5),
    weights=st.none() | texts,
    germline=st.none() | texts,
    lineage=lineages,
    name=texts,
)
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    dtype = draw(
        st.sampled_from(
            [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
        )
    )
    count = math.prod(shape)
    numbers = draw(st.lists(st.sampled_from([0.0, -1.5, 1.0, 3.0]), min_size=count, max_size=count))
    return torch.tensor(numbers, dtype=torch.float64).reshape(shape).to(dtype)


trees = st.dictionaries(texts.map(lambda name: f"rule.{name}"), tensors(), max_size=4)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal names, dtypes, shapes and every element."""
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def document(**changes: object) -> str:
    """The JSON of a small genome with some entries replaced."""
    content = {"format": FORMAT, "version": VERSION, "id": "000-001", "family": "adam", "genes": {"lr": 0.1}}
    return json.dumps({**content, **changes})


def refusal(read: Callable[[], object]) -> str | None:
    """The line of the GenomeError that ``read`` raises, None if it raises nothing; all else escapes."""
    try:
        read()
    except GenomeError as error:
        return str(error)
    return None


@given(genomes, st.dictionaries(texts, plain_json, max_size=3))
def test_json_loses_nothing(genome: Genome, extra: dict[str, object]) -> None:
    text = genome_to_json(genome, extra=extra)
    again, facts = genome_from_json(text)
    assert again == genome
    assert list(again.genes) == list(genome.genes)
    assert [type(value) for value in again.genes.values()] == [type(v) for v in genome.genes.values()]
    assert facts == extra
    assert genome_to_json(again, extra=facts) == text


@FILES
@given(genomes, trees, st.dictionaries(texts, plain_json, max_size=3))
def test_a_file_loses_nothing(
    tmp_path: Path, genome: Genome, weights: dict[str, Tensor], extra: dict[str, object]
) -> None:
    path = tmp_path / "genome.safetensors"
    save_genome(path, genome, weights, extra=extra)
    first = path.read_bytes()
    again, loaded, facts = load_genome(path)
    assert again == genome
    assert equal(loaded, weights)
    assert facts == extra
    save_genome(path, again, loaded, extra=facts)
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@given(trees)
def test_weights_as_bytes_lose_nothing_and_hash_by_content(weights: dict[str, Tensor]) -> None:
    data = weights_to_bytes(weights)
    assert equal(weights_from_bytes(data), weights)
    assert list(weights_from_bytes(data)) == sorted(weights)  # an order that varied would vary sums over them
    backwards = {name: weights[name].clone() for name in reversed(list(weights))}
    assert content_hash(weights_to_bytes(backwards)) == content_hash(data)
    changed = {**weights, "rule.one more": torch.zeros(1)}
    assert content_hash(weights_to_bytes(changed)) != content_hash(data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_weights_are_the_bytes_that_safetensors_makes_for_pytorch(dtype: torch.dtype) -> None:
    weights = {
        "z": torch.ones(3, 2).to(dtype),
        "a": torch.zeros((), dtype=dtype),
        "e": torch.ones(0, 4).to(dtype),
    }
    assert weights_to_bytes(weights) == safetensors.torch.save(
        {name: weights[name] for name in sorted(weights)}
    )


def test_tensors_that_share_memory_or_need_gradients_are_stored_by_value() -> None:
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    weights = {"all": base, "twin": base, "column": base[:, 1], "row": base[0]}
    loaded = weights_from_bytes(weights_to_bytes(weights))
    assert equal(loaded, {name: value.detach() for name, value in weights.items()})


def test_what_was_loaded_does_not_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "genome.safetensors"
    genome = Genome("000-001", "mlp", {})
    save_genome(path, genome, {"rule.w": torch.ones(64)})
    _, weights, _ = load_genome(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size - 256)
        file.write(b"\0" * 256)
    assert torch.equal(weights["rule.w"], torch.ones(64))


def test_a_failed_save_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "genome.safetensors"
    save_genome(path, Genome("000-001", "adam", {"lr": 0.1}), {})
    before = path.read_bytes()
    for bad in (math.nan, math.inf, "\ud800", object()):
        with pytest.raises(GenomeError, match="JSON cannot carry"):
            save_genome(path, Genome("000-002", "adam", {"lr": bad}), {})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_save_that_the_disk_refuses_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, _: bytes) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_genome(tmp_path / "genome.safetensors", Genome("000-001", "adam", {"lr": 0.1}), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5_000, "not JSON"),
        ("[]", "not an evometa genome"),
        ("{}", "not an evometa genome"),
        (document(format="other"), "not an evometa genome"),
        (
            document(version=VERSION + 1),
            f"newer evometa .genome version {VERSION + 1}.*pip install --upgrade",
        ),
        (document(version=0), "version is 0, expected a whole number from 1"),
        (document(version=True), "version is True"),
        (document(version="1\n2"), "version is '1"),
        (document(version=None), "version is None"),
        (document(id=3), "'id' is int, expected str"),
        (document(id=None), "'id' is missing"),
        (document(family=["adam"]), "'family' is list, expected str"),
        (document(genes=[]), "'genes' is list, expected dict"),
        (document(genes=None), "'genes' is missing"),
        (document(genes={"lr": math.nan}), "gene 'lr' is nan, expected a finite number"),
        (document(genes={"lr": -math.inf}), "gene 'lr' is -inf"),
        (document(genes={"lr": 0}).replace("0}", "1e999}"), "gene 'lr' is inf"),
        (document(genes={"lr": {}}), "gene 'lr' has a value of type dict"),
        (document(genes={"lr": None}), "gene 'lr' has a value of type NoneType"),
        (document(genes={"f": ["a", 1]}), "gene 'f' has a value of type list"),
        (document(weights=1), "'weights' is int, expected str"),
        (document(lineage="seed"), "'lineage' is str, expected dict"),
        (document(lineage={"generation": True}), "'generation' is bool, expected int"),
        (document(lineage={"parents": ["a", 1]}), "'parents' holds something that is not a string"),
        (document(extra=[]), "'extra' is list, expected dict"),
        (document(extra={"loss": math.nan}), "JSON cannot carry"),
        (document(name="\ud800"), "JSON cannot carry"),
    ],
)
def test_json_that_is_no_genome_is_refused(text: str, message: str) -> None:
    line = refusal(lambda: genome_from_json(text, source="here.json"))
    assert line is not None
    assert re.match(rf"here\.json: .*{message}.*$", line)


@given(plain_json | st.fixed_dictionaries({}, optional=dict.fromkeys(json.loads(document()), plain_json)))
def test_arbitrary_json_is_a_genome_or_a_genome_error(content: object) -> None:
    if isinstance(content, dict):
        content = {**json.loads(document()), **content}
    text = json.dumps(content)
    line = refusal(lambda: genome_from_json(text))
    if line is None:
        genome, extra = genome_from_json(text)
        assert genome_from_json(genome_to_json(genome, extra=extra)) == (genome, extra)
    else:
        assert "\n" not in line


@FILES
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "noise.safetensors"
    path.write_bytes(data)
    line = refusal(lambda: load_genome(path))
    assert line is not None
    assert re.match(rf"{path}: .*$", line)
    assert re.match(r"(blob: .*|)$", refusal(lambda: weights_from_bytes(data, source="blob")) or "")


@FILES
@given(st.data())
def test_a_file_with_any_bit_flipped_or_any_end_cut_off_is_refused(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "genome.safetensors"
    save_genome(
        path, Genome("000-001", "mlp", {"lr": 0.1}), {"rule.w": torch.randn(4, generator=torch.Generator())}
    )
    whole = path.read_bytes()
    broken = bytearray(whole)
    position = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        broken[position] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del broken[position:]
    path.write_bytes(broken)
    line = refusal(lambda: load_genome(path))
    if line is not None:
        assert re.match(rf"{path}: .*$", line)
    else:  # a flip in the header's padding or in a JSON escape may leave the content as it was
        loaded = load_genome(path)
        path.write_bytes(whole)
        original = load_genome(path)
        assert loaded[0] == original[0]
        assert equal(loaded[1], original[1])


@pytest.mark.parametrize(("dtype", "size"), [("F4", 2), ("F6_E2M3", 3), ("F8_E8M0", 4), ("U64", 32)])
def test_numbers_of_an_unusual_type_raise_nothing_but_genome_errors(
    tmp_path: Path, dtype: str, size: int
) -> None:
    header = {
        "__metadata__": {METADATA_KEY: document()},
        "a": {"dtype": dtype, "shape": [4], "data_offsets": [0, size]},
    }
    encoded = json.dumps(header).encode()
    data = struct.pack("<Q", len(encoded)) + encoded + b"\1" * size
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(data)
    assert re.match(r".*foreign\.safetensors: .*$", refusal(lambda: load_genome(path)) or "")
    assert re.match(r"(weights: .*|)$", refusal(lambda: weights_from_bytes(data)) or "")


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GenomeError, match="no such file"):
        load_genome(tmp_path / "absent.safetensors")
    with pytest.raises(GenomeError, match="is a directory, expected the name of a file"):
        load_genome(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(safetensors.torch.save({"w": torch.ones(2)}))
    with pytest.raises(GenomeError, match="without an evometa genome"):
        load_genome(foreign)
    foreign.write_bytes(safetensors.torch.save({"w": torch.ones(2)}, metadata={METADATA_KEY: document()}))
    with pytest.raises(GenomeError, match="does not match its checksum"):
        load_genome(foreign)
    foreign.write_bytes(safetensors.torch.save({}, metadata={METADATA_KEY: document(version=VERSION + 1)}))
    with pytest.raises(GenomeError, match="newer evometa"):
        load_genome(foreign)
    torch.save({"w": torch.ones(2)}, foreign)
    with pytest.raises(GenomeError, match="not readable as safetensors"):
        load_genome(foreign)
