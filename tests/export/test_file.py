"""Export files: what is written can be read, and what cannot be used is refused with one line."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from evometa.errors import GenomeError
from evometa.export import export_genome, load_optimizer
from evometa.export.file import attach_card, read_export
from evometa.genome.codec import FORMAT, METADATA_KEY, load_genome, save_genome
from evometa.genome.genome import Genome
from evometa.rules import RULES, Learner
from evometa.rules.learner_structure import learner_space
from evometa.trees import Tree

Exported = Callable[..., tuple[Path, Genome, Tree]]
LEARNED = [name for name, family in RULES if family.learned]


def whole(family: str) -> Genome:
    """A genome that says nothing but the defaults, and all of them."""
    return Genome("1", family, learner_space(RULES[family]).complete({}))


def load(path: Path | str, **options: object) -> object:
    return load_optimizer(path, [torch.zeros(2)], **options)


def test_a_file_holds_genome_weights_horizon_and_provenance(exported: Exported) -> None:
    path, genome, weights = exported(LEARNED[0], "recurrent", horizon=70)
    loaded, tensors, extra = load_genome(path)
    assert loaded == genome
    assert tensors.keys() == weights.keys()
    assert all(torch.equal(tensors[name], weights[name]) for name in weights)
    assert extra == {"horizon": 70, "provenance": {"campaign": "test"}}


def test_a_bench_card_is_stored_beside_it_and_replaced(exported: Exported) -> None:
    path, genome, weights = exported("adam", horizon=70)
    assert read_export(path).card is None
    export_genome(path, genome, weights, horizon=70, provenance={"seed": 1}, card="# First")
    assert read_export(path).card == "# First"
    attach_card(path, "# Second")
    found = read_export(path)
    assert (found.genome, found.horizon, found.provenance) == (genome, 70, {"seed": 1})
    assert found.card == "# Second"


@pytest.mark.parametrize("odd", [3, ["# Card"], None])
def test_facts_of_a_stranger_may_be_anything(tmp_path: Path, odd: object) -> None:
    path = tmp_path / "x.safetensors"
    save_genome(path, whole("adam"), {}, extra={"horizon": 10, "provenance": odd, "bench_card": odd})
    found = read_export(path)
    assert (found.provenance, found.card) == ({}, None)


def test_loading_changes_nothing_in_the_file(exported: Exported) -> None:
    path, _, _ = exported("adam")
    before = path.read_bytes()
    load(str(path))
    assert path.read_bytes() == before


def test_nothing_is_written_where_the_target_is_wrong(exported: Exported, tmp_path: Path) -> None:
    _, genome, weights = exported("adam")
    with pytest.raises(GenomeError, match=r"directory .*absent' does not exist; create it first"):
        export_genome(tmp_path / "absent" / "x", genome, weights, horizon=1, provenance={})
    assert not (tmp_path / "absent").exists()
    with pytest.raises(GenomeError, match="is a directory"):
        export_genome(tmp_path, genome, weights, horizon=1, provenance={})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"genome": Genome("1", "adm", {})}, "unknown rule 'adm'; did you mean 'adam'"),
        ({"genome": Genome("1", "adam", {"lr": 50.0})}, "gene 'lr': got 50.0, allowed is"),
        ({"genome": Genome("1", "adam", {"momentum": 0.9})}, "family 'adam' has no gene 'momentum'"),
        ({"genome": Genome("1", "adam", {"schedule": "sine"})}, "gene 'schedule': got 'sine'"),
        ({"weights": {"rule.w": torch.zeros(2)}}, "unknown weights 'rule.w'"),
        ({"horizon": 0}, "horizon is 0, expected a whole number of steps from 1"),
        ({"horizon": 2.5}, "horizon is 2.5"),
        ({"horizon": True}, "horizon is True"),
        ({"provenance": {"when": object()}}, "JSON cannot carry"),
    ],
)
def test_what_could_not_be_loaded_again_is_not_exported(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    arguments: dict[str, object] = {
        "genome": whole("adam"),
        "weights": {},
        "horizon": 10,
        "provenance": {},
    }
    path = tmp_path / "x.safetensors"
    with pytest.raises(GenomeError, match=message):
        export_genome(path, **{**arguments, **changes})
    assert not path.exists()


@pytest.mark.parametrize("family", LEARNED)
def test_weights_that_do_not_fit_are_refused_by_name(exported: Exported, tmp_path: Path, family: str) -> None:
    _, genome, weights = exported(family, "recurrent")
    name = sorted(weights)[-1]
    flat = weights[name].reshape(-1)
    wrong: list[tuple[Tree, str]] = [
        ({k: v for k, v in weights.items() if k != name}, rf"weights '{name}' are missing"),
        ({**weights, "rule.extra": torch.zeros(3)}, r"unknown weights 'rule\.extra'"),
        ({**weights, name: torch.cat([flat, flat[:1]])}, rf"weights '{name}' have shape .*, expected \("),
        (
            {**weights, name: torch.zeros(weights[name].shape, dtype=torch.int64)},
            rf"'{name}' are torch.int64",
        ),
        (
            {**weights, name: weights[name].to(torch.float8_e4m3fn)},
            rf"'{name}' are torch.float8_e4m3fn, expected one of torch.float32, torch.float64, ",
        ),
        ({**weights, name: weights[name] * torch.nan}, rf"weights '{name}' hold NaN"),
    ]
    path = tmp_path / "wrong.safetensors"
    for tensors, message in wrong:
        save_genome(path, genome, tensors, extra={"horizon": 10})
        with pytest.raises(GenomeError, match=message) as caught:
            load(path)
        assert re.match(rf"{re.escape(str(path))}: .*$", str(caught.value))


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        (Genome("1", "perceptron", {}), "unknown rule 'perceptron'"),
        (Genome("1", "adam", {"lr": 0.01, "colour": "red"}), "family 'adam' has no gene 'colour'"),
        (Genome("1", "adam", {"lr": "fast"}), "gene 'lr': got 'fast'"),
        (Genome("1", "adam", {"schedule": "sine"}), "gene 'schedule': got 'sine'"),
    ],
)
def test_genomes_this_version_does_not_know_are_refused(tmp_path: Path, genome: Genome, message: str) -> None:
    path = tmp_path / "strange.safetensors"
    save_genome(path, genome, {}, extra={"horizon": 10})
    with pytest.raises(GenomeError, match=message) as caught:
        load(path)
    assert re.match(rf"{re.escape(str(path))}: .*$", str(caught.value))


def test_genes_of_meta_training_travel_along(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    genome = replace(whole("sgd"), genes={**whole("sgd").genes, "meta.unroll_length": 20})
    export_genome(path, genome, {}, horizon=10, provenance={})
    load(path)


def test_a_file_cannot_make_the_reader_import_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "payload_of_file.py").write_text("family = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "x.safetensors"
    save_genome(path, Genome("1", "payload_of_file:family", {}), {}, extra={"horizon": 10})
    with pytest.raises(GenomeError, match=r"unknown rule 'payload_of_file:family'.*register it"):
        load(path)
    assert "payload_of_file" not in sys.modules


def test_missing_damaged_and_foreign_files_are_refused(exported: Exported, tmp_path: Path) -> None:
    path, _, _ = exported("adam")
    whole = path.read_bytes()
    newer = json.dumps({"format": FORMAT, "version": 99})
    contents: list[tuple[bytes, str]] = [
        (b"", "not readable as safetensors"),
        (whole[:-9], "not readable as safetensors"),
        (b"PK\x03\x04" + bytes(100), "not readable as safetensors"),
        (safetensors.torch.save({"w": torch.ones(2)}), "without an evometa genome"),
        (safetensors.torch.save({}, metadata={METADATA_KEY: newer}), "newer evometa"),
        (whole.replace(b"adam", b"sgdm", 1), "damaged"),
    ]
    for content, message in contents:
        path.write_bytes(content)
        with pytest.raises(GenomeError, match=message) as caught:
            load(path)
        assert re.match(rf"{re.escape(str(path))}: .*$", str(caught.value))
    with pytest.raises(GenomeError, match="no such file"):
        load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("horizon", [0, -3, 2.5, "100", True, None, [10]])
def test_a_horizon_in_the_file_must_be_a_number_of_steps(tmp_path: Path, horizon: object) -> None:
    path = tmp_path / "x.safetensors"
    save_genome(path, whole("sgd"), {}, extra={"horizon": horizon})
    with pytest.raises(GenomeError, match=r"horizon is .*expected a whole number"):
        load(path)


def test_a_file_without_horizon_asks_for_one(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_genome(path, whole("sgd"), {})
    with pytest.raises(ValueError, match="names no trained horizon"):
        load(path)
    load(path, horizon=10)


def test_exporting_half_precision_weights_keeps_them(exported: Exported, tmp_path: Path) -> None:
    _, genome, weights = exported(LEARNED[0])
    half: dict[str, Tensor] = {name: value.half() for name, value in weights.items()}
    path = tmp_path / "half.safetensors"
    export_genome(path, genome, half, horizon=10, provenance={})
    assert all(value.dtype == torch.float16 for value in load_genome(path)[1].values())
    load(path)


@pytest.mark.parametrize("family", RULES.names())
def test_a_file_without_one_of_the_genes_is_refused(tmp_path: Path, family: str) -> None:
    genome = whole(family)
    weights = Learner.of(family, genome.genes).init_weights(torch.Generator())
    path = tmp_path / "partial.safetensors"
    for name in genome.genes:
        partial = replace(genome, genes={k: v for k, v in genome.genes.items() if k != name})
        save_genome(path, partial, weights, extra={"horizon": 10})
        with pytest.raises(GenomeError, match=rf"gene '{re.escape(name)}' is missing; it must be "):
            load(path)
        with pytest.raises(GenomeError, match=rf"gene '{re.escape(name)}' is missing"):
            export_genome(tmp_path / "absent", partial, weights, horizon=10, provenance={})
    assert not (tmp_path / "absent").exists()


def test_a_link_is_written_through(tmp_path: Path) -> None:
    target, link = tmp_path / "target.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(target.name)
    for horizon in (10, 20):  # the target is made, then replaced
        export_genome(link, whole("adam"), {}, horizon=horizon, provenance={})
        assert link.is_symlink()
        assert not target.is_symlink()
        assert load_genome(target)[2]["horizon"] == horizon


def test_what_is_no_regular_file_is_neither_written_nor_read(tmp_path: Path) -> None:
    pipe, link, folder = tmp_path / "pipe", tmp_path / "link", tmp_path / "folder"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    folder.mkdir()
    before = sorted(tmp_path.iterdir())
    for path, message in ((pipe, "a device, pipe"), (link, "a device, pipe"), (folder, "a directory")):
        with pytest.raises(GenomeError, match=rf"{path}: is {message}"):
            export_genome(path, whole("adam"), {}, horizon=1, provenance={})
        with pytest.raises(GenomeError, match=rf"{path}: is {message}"):
            load(path)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == before


def test_paths_that_the_system_refuses_are_one_line(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop.name)
    for path in (tmp_path / ("x" * 300), tmp_path / ("x" * 300) / "y", loop, loop / "y"):
        with pytest.raises(GenomeError, match=rf"^{path}: .*$"):
            export_genome(path, whole("adam"), {}, horizon=1, provenance={})
        with pytest.raises(GenomeError, match=rf"^{path}: cannot be read \(.*\)$"):
            load(path)
