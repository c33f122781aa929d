"""``python tests/fuzz TARGET``: a coverage-guided campaign with Atheris (libFuzzer) against one reader.

What it learns is kept in ``.fuzz/TARGET``, inputs that break something in ``.fuzz/found``. ``--replay`` reads
all that was kept once more, without the fuzzer, and tells which share of the readers' lines that reaches.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
KEPT = ROOT / ".fuzz"
#: Inputs that once broke something.
REGRESSIONS = Path(__file__).parent / "found"
#: Modules whose branches guide the fuzzer, as prefixes of names.
GUIDES = (
    "evometa.genome",
    "evometa.export",
    "evometa.config",
    "evometa.rules.learner",
    "evometa.rules.seeds",
    "tomllib",
)
#: Files whose lines are counted, by target.
READERS = {
    "genome_file": ("genome/codec.py", "export/file.py"),
    "weights": ("genome/codec.py",),
    "genome_json": ("genome/codec.py", "rules/seeds.py"),
    "toml": ("config/loading.py", "config/problems.py", "campaign/ingredients.py"),
    "override": ("config/loading.py", "config/problems.py"),
    "stored_config": ("config/loading.py", "config/problems.py"),
}
#: More than this for one input is a finding.
MOST_MEGABYTES = 1500
MOST_SECONDS = 20


def fuzz(name: str, seconds: int) -> None:
    """Fuzz for so long; ends this process, with 0 where nothing was found."""
    import atheris
    import torch  # noqa: F401  before the instrumentation: it guides nobody

    with atheris.instrument_imports(include=list(GUIDES)):
        from strangers import TARGETS, altered, joined, lied, parts

    target = TARGETS[name]
    corpus = KEPT / name
    corpus.mkdir(parents=True, exist_ok=True)
    (KEPT / "found").mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    for path in REGRESSIONS.glob(f"{name}-*"):
        (corpus / path.name).write_bytes(path.read_bytes())

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        """Lies in a header that reads well, or libFuzzer's changes to a part of the file or all of it."""
        found, draw = parts(data), Random(seed)
        chance = draw.random()
        if found is None or chance < 0.2:
            return bytes(atheris.Mutate(data, len(data) + 8))[:most]
        header, tensors = found
        if chance < 0.4:
            return joined(header, bytes(atheris.Mutate(tensors or b"\0", len(tensors) + 8)))[:most]
        if chance < 0.6:
            return joined(bytes(atheris.Mutate(header, len(header) + 64)), tensors)[:most]
        return lied(data, draw)[:most]

    def mutated_json(data: bytes, most: int, seed: int) -> bytes:
        """One lie, or libFuzzer's changes."""
        draw = Random(seed)
        if draw.random() < 0.6:
            with suppress(ValueError, RecursionError):
                return json.dumps(altered(json.loads(data), draw)).encode()[:most]
        return bytes(atheris.Mutate(data, len(data) + 64))[:most]

    options = [
        str(corpus),
        f"-max_total_time={seconds}",
        f"-timeout={MOST_SECONDS}",
        f"-rss_limit_mb={MOST_MEGABYTES}",
        f"-artifact_prefix={KEPT / 'found'}/{name}-",
        f"-dict={_dictionary()}",
        "-max_len=16384",
        "-print_final_stats=1",
    ]
    mutators = {
        "genome_file": mutated,
        "weights": mutated,
        "genome_json": mutated_json,
        "stored_config": mutated_json,
    }
    structured = {"custom_mutator": mutators[name]} if name in mutators else {}
    atheris.Setup([sys.argv[0], *options], target.read, internal_libfuzzer=True, **structured)
    atheris.Fuzz()


def _dictionary() -> Path:
    """The words that the readers know, as libFuzzer wants them."""
    from evometa.config.loading import _CAMPAIGN
    from evometa.rules.registry import RULES

    words: set[str] = {
        "dtype",
        "shape",
        "data_offsets",
        "__metadata__",
        "evometa.genome",
        "sha256",
        "F32",
        "BF16",
    }
    words |= {"format", "version", "lineage", "parents", "generation", "germline", "extra", "horizon", "null"}
    words |= {
        "[[",
        "]]",
        "low",
        "high",
        "options",
        "nan",
        "inf",
        "1e999",
        "\\u0000",
        "\\ud800",
        '"""',
        "9" * 40,
    }
    waiting: list[object] = [_CAMPAIGN.schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            words |= set(part.get("properties", {}))
            waiting += part.values()
    for family, rule in RULES:
        words |= {family, *(gene.name for gene in rule.space)}
    path = KEPT / "words"
    lines = (json.dumps(word, ensure_ascii=False) for word in sorted(words))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def replay(name: str) -> None:
    """Read everything kept once more; prints the lines reached of the target's readers."""
    from strangers import TARGETS

    files = {str(ROOT / "evometa" / file): set() for file in READERS[name]}

    def traced(frame: types.FrameType, event: str, _: object) -> object:
        lines = files.get(frame.f_code.co_filename)
        if lines is None:
            return None
        if event == "line":
            lines.add(frame.f_lineno)
        return traced

    inputs = [path.read_bytes() for path in sorted((KEPT / name).iterdir())]
    sys.settrace(traced)
    for data in inputs:
        TARGETS[name].read(data)
    sys.settrace(None)
    for file, seen in files.items():
        code = set(_lines(compile(Path(file).read_text(encoding="utf-8"), file, "exec"), inside=False))
        reached = len(seen & code)
        where = Path(file).relative_to(ROOT)
        print(f"{name}: {len(inputs)} inputs reach {reached} of {len(code)} lines of {where}")


def _lines(code: types.CodeType, *, inside: bool) -> Iterator[int]:
    """Numbers of the lines inside functions: those of a module run when it is imported."""
    if inside:
        first = code.co_firstlineno
        yield from (line for _, _, line in code.co_lines() if line is not None and line != first)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            is_class = not constant.co_flags & 0x0001  # CO_OPTIMIZED: a function's body
            yield from _lines(constant, inside=not is_class)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=READERS)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--replay", action="store_true")
    asked = parser.parse_args()
    if asked.replay:
        replay(asked.target)
    else:
        fuzz(asked.target, asked.seconds)
