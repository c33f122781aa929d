"""``evometa run EXPERIMENT``: evolve."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from evometa.cli.output import console
from evometa.cli.parameters import StorageOption, complete_campaign
from evometa.errors import ConfigError, quoted

if TYPE_CHECKING:
    from evometa.campaign import Listener
    from evometa.config import CampaignConfig

#: Exit code of an interrupted command, as shells have it for SIGINT.
_INTERRUPTED = 130
#: long enough for the ``__del__`` that dropped an interruption to be over
_AGAIN_SECONDS = 0.05


def run(
    experiment: Annotated[
        Path | None,
        typer.Argument(
            metavar="EXPERIMENT.toml",
            help="The campaign's configuration; may be left out with --resume and --name.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The campaign's name.  [default: the one in the file, or the file's]",
            autocompletion=complete_campaign,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the campaign after its last whole generation, if there is one."
        ),
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a setting, as in `--set evolution.population=64`; may be repeated.",
        ),
    ] = None,
    storage: StorageOption = None,
) -> None:
    """Run an evolution campaign, or continue one.

    Every finished generation is stored whole, so Ctrl-C, a crash or a power cut costs at most the generation
    under way: `--resume` goes on from there, to the same result as without the interruption.
    """
    from evometa.campaign.session import is_finished, run_campaign
    from evometa.store import storage_root

    root = storage_root(storage)
    config = _config(experiment, name, resume, overrides or [], root)
    try:
        if resume and is_finished(config, root):
            _print_results(config.name, root, storage, "is finished already")
            return
        with _interruptible(), _watching(config) as listener:
            run_campaign(config, root, resume=resume, listener=listener)
    except ConfigError as error:
        raise ConfigError(f"{experiment or config.name}: {error}") from error
    except KeyboardInterrupt:
        again = _command("run", experiment, name=name, set=overrides, storage=storage, resume=True)
        _print_interruption(config.name, root, again)
        raise typer.Exit(_INTERRUPTED) from None
    _print_results(config.name, root, storage, "is finished")


def _config(
    experiment: Path | None, name: str | None, resume: bool, overrides: list[str], root: Path
) -> CampaignConfig:
    """The configuration from the file, or for ``--resume --name`` from the stored campaign.

    A stored campaign is called as its folder is now, which may have been renamed or copied. Where it names
    code it needs the file: only the user's own configuration says what is run.
    """
    from evometa.campaign.results import campaign_config
    from evometa.config import code_named, load_config
    from evometa.store import CampaignStore, campaign_path

    if experiment is not None:
        return load_config(experiment, overrides, name)
    if not resume or name is None:
        raise ConfigError(
            "no experiment given: name a TOML file, as in 'evometa run experiments/quickstart.toml', "
            "or continue a stored campaign with --resume --name NAME"
        )
    if overrides:
        raise ConfigError(f"--set {overrides[0]} needs the experiment's TOML file, which was not given")
    with CampaignStore.open(campaign_path(root, name), readonly=True) as store:
        config = dataclasses.replace(campaign_config(store), name=name)
    if named := code_named(config):
        raise ConfigError(
            f"campaign {name!r} names code ({quoted(named[0])}), which it would import and run: "
            "give the experiment's TOML file, too, so that it is you who names it"
        )
    return config


@contextmanager
def _watching(config: CampaignConfig) -> Iterator[Listener]:
    """A live display on a terminal, else lines."""
    from evometa.cli.progress import Lines, Screen

    out = console()
    if not out.is_terminal:
        yield Lines(out)
        return
    with Screen(out, config) as screen:
        yield screen


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the campaign as Ctrl-C does, and neither is lost.

    An interruption that arrives while Python runs an object's ``__del__`` is printed and dropped; it is made
    again a moment later.
    """
    terminate, unraisable = signal.getsignal(signal.SIGTERM), sys.unraisablehook

    def interrupt_again(dropped: sys.UnraisableHookArgs) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            main = threading.main_thread().ident
            threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (main, signal.SIGTERM)).start()
        else:
            unraisable(dropped)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.unraisablehook = interrupt_again
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGTERM, terminate)


def _print_interruption(name: str, root: Path, again: str) -> None:
    from evometa.store import CampaignStore, campaign_path

    path = campaign_path(root, name)
    screen = console(stderr=True)
    if not path.is_file():
        screen.print("Interrupted before the campaign began; nothing was stored.")
        return
    with CampaignStore.open(path, readonly=True) as store:
        last = store.last_generation()
    kept = "no generation yet" if last is None else f"whole generations stored: {last + 1}"
    screen.print(Text(f"Interrupted ({kept}). Continue with:\n  {again}"), soft_wrap=True)


def _print_results(name: str, root: Path, storage: Path | None, how: str) -> None:
    """The front, its knee, and what to do next."""
    from evometa.campaign import read_front
    from evometa.campaign.results import campaign_config
    from evometa.cli.pareto import front_listing
    from evometa.config import code_named
    from evometa.store import CampaignStore, campaign_path

    with CampaignStore.open(campaign_path(root, name), readonly=True) as store:
        own = bool(code_named(campaign_config(store)))
        front = read_front(store)
        listing = front_listing(store)
    knee = front.genomes[front.knee]
    next_commands = [
        _command("show", name, knee.id, storage=storage, allow_code=own),
        _command("plot", name, storage=storage, allow_code=own),
        _command("export", name, knee=True, out=f"{name}.safetensors", storage=storage, allow_code=own),
    ]
    out = console()
    out.print(Text.assemble("Campaign ", (name, "bold"), f" {how}; the knee of its front is {knee.id}."))
    out.print(listing.view())
    out.print(Text("\n".join(["Next:", *(f"  {command}" for command in next_commands)])), soft_wrap=True)


def _command(verb: str, *arguments: object, **options: object) -> str:
    """An ``evometa`` command line, quoted for the shell; options that are None or False are left out."""
    words = ["evometa", verb, *(str(argument) for argument in arguments if argument is not None)]
    for key, value in options.items():
        option = f"--{key.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif isinstance(value, list):
            words += [word for item in value for word in (option, str(item))]
        elif value not in (None, False):
            words += [option, str(value)]
    return shlex.join(words)
