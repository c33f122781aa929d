"""Genome files of strangers: loaded or refused in a line, in little memory, whatever their header says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strangers import HOSTILE, TARGETS, altered, genome_files, joined, lied, parts, refusal, signed

from evometa.errors import GenomeError
from evometa.genome.codec import METADATA_KEY, load_genome
from evometa.rules.seeds import load_seeds

files = st.integers(0, 2).map(lambda index: genome_files()[index])
FEW = settings(max_examples=60)
#: What a process may map beyond what it had mapped before the file was read.
_MOST_BYTES = 100_000_000
_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from evometa.errors import GenomeError
from evometa.export import load_optimizer
import torch
from evometa.genome.codec import load_genome, weights_from_bytes
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]),) * 2)
for name in sys.argv[2:]:
    path = Path(name)
    for read in (load_genome, lambda path: weights_from_bytes(path.read_bytes()),
                 lambda path: load_optimizer(path, [torch.zeros(2)])):
        try:
            read(path)
        except GenomeError as error:
            print(str(error)[:60])
"""


@FEW
@given(data=files, seed=st.integers(0, 2**32))
def test_a_header_or_genome_that_lies(data: bytes, seed: int) -> None:
    TARGETS["genome_file"].read(lied(data, Random(seed)))


@FEW
@given(data=files, draw=st.randoms(use_true_random=False), n=st.integers(1, 6))
def test_bytes_flipped_cut_out_and_put_in(data: bytes, draw: Random, n: int) -> None:
    changed = bytearray(data)
    for _ in range(n):
        place, length = draw.randrange(len(changed) + 1), draw.randrange(40)
        other = draw.randrange(len(data))
        match draw.randrange(4):
            case 0:
                changed[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                del changed[place : place + length]
            case 2:
                changed[place:place] = data[other : other + length]
            case 3:
                del changed[place + 8 :]
    TARGETS["genome_file"].read(bytes(changed))
    TARGETS["weights"].read(bytes(changed))


@FEW
@given(index=st.integers(0, 7), seed=st.integers(0, 2**32), n=st.integers(1, 3))
def test_a_genome_in_json_that_lies(index: int, seed: int, n: int) -> None:
    draw = Random(seed)
    seeds = TARGETS["genome_json"].seeds()
    document: object = json.loads(seeds[index % len(seeds)])
    for _ in range(n):
        document = altered(document, draw)
    TARGETS["genome_json"].read(json.dumps(document).encode())


def with_header(**changes: object) -> bytes:
    """The smallest exported file with some entries of its header replaced."""
    found = parts(genome_files()[0])
    assert found is not None
    return joined(json.dumps({**json.loads(found[0]), **changes}).encode(), found[1])


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


LIES: dict[str, Callable[[], bytes]] = {
    "a header as long as the address space": lambda: b"\xff" * 8 + b"{}",
    "a header of 90 MB that is not there": lambda: (90_000_000).to_bytes(8, "little") + b"{}",
    "a tensor of 16 TiB without data": lambda: with_header(w=tensor([2**42], 0, 2**44)),
    "a shape larger than its data": lambda: with_header(w=tensor([2**40], 0, 4)) + b"\0" * 4,
    "sizes whose product is too large to count": lambda: with_header(w=tensor([2**33, 2**33], 0, 4)),
    "a size of nothing times very much": lambda: with_header(w=tensor([0, 2**62], 0, 0)),
    "offsets that run backwards": lambda: with_header(w=tensor([1], 4, 0)) + b"\0" * 4,
    "tensors that overlap": lambda: with_header(a=tensor([2], 0, 8), b=tensor([2], 4, 12)) + b"\0" * 12,
    "three hundred axes": lambda: with_header(w=tensor([1] * 300, 0, 4)) + b"\0" * 4,
    "a name given twice": lambda: genome_files()[0].replace(
        b'"__metadata__"', b'"__metadata__":{},"__metadata__"'
    ),
    "genes nested 100,000 deep": lambda: with_header(__metadata__={METADATA_KEY: "[" * 100_000}),
    "a family of a million letters": lambda: with_header(
        __metadata__={
            METADATA_KEY: json.dumps(
                {"format": "evometa.genome", "version": 1, "id": "1", "family": "x" * 10**6, "genes": {}}
            )
        }
    ),
}


def test_no_header_that_lies_takes_memory(tmp_path: Path) -> None:
    paths = []
    for number, make in enumerate(LIES.values()):
        data = make()
        for kind, content in (("as it is", data), ("signed", signed(data))):
            if content is not None:
                paths.append(tmp_path / f"{number} {kind}")
                paths[-1].write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", _UNDER_A_LIMIT, str(_MOST_BYTES), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    refused = done.stdout.splitlines()
    assert len(refused) >= 2 * len(paths), "load_genome and load_optimizer refuse nearly all of them"
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_or_harmless(lie: str) -> None:
    TARGETS["genome_file"].read(LIES[lie]())
    TARGETS["weights"].read(LIES[lie]())


@pytest.mark.parametrize("horizon", [value for value in HOSTILE if isinstance(value, int | float)])
def test_a_number_of_steps_that_no_schedule_can_count(horizon: float) -> None:
    found = parts(genome_files()[0])
    assert found is not None
    header = json.loads(found[0])
    document = json.loads(header["__metadata__"][METADATA_KEY])
    document["extra"]["horizon"] = horizon
    header["__metadata__"][METADATA_KEY] = json.dumps(document)
    TARGETS["genome_file"].read(joined(json.dumps(header).encode(), found[1]))


@pytest.mark.parametrize("path", ["/dev/zero", "\0", "x" * 300, "a\nb", "/proc/self/mem"])
def test_seeds_are_files_with_an_end(path: str) -> None:
    assert refusal(lambda: load_seeds([Path(path)]), GenomeError) is not None


def test_what_is_signed_again_is_loaded_again(tmp_path: Path) -> None:
    for data in genome_files():
        again = signed(data)
        assert again is not None
        path = tmp_path / "again.safetensors"
        path.write_bytes(again)
        load_genome(path)
