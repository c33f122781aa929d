"""The console entry ``evometa``: wires the verbs, and turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from evometa.cli.adapt import adapt
from evometa.cli.bench import bench
from evometa.cli.compare import compare
from evometa.cli.doctor import doctor
from evometa.cli.export import export
from evometa.cli.list import list_campaigns
from evometa.cli.output import print_error
from evometa.cli.pareto import pareto
from evometa.cli.plot import plot
from evometa.cli.registered import estimators, objectives, rules, schedules, tasks
from evometa.cli.rl2 import rl2
from evometa.cli.run import run
from evometa.cli.show import show
from evometa.cli.status import status
from evometa.errors import EvometaError

#: Exit code for whatever a user can mend, as for wrong usage.
_USER_ERROR = 2

app = typer.Typer(
    name="evometa",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Try `evometa run experiments/quickstart.toml`, then `evometa pareto quickstart`.",
)
app.command("run", rich_help_panel="Evolve")(run)
app.command(rich_help_panel="Evolve")(rl2)
app.command("list", rich_help_panel="Look at campaigns")(list_campaigns)
app.command(rich_help_panel="Look at campaigns")(status)
app.command(rich_help_panel="Look at campaigns")(show)
app.command(rich_help_panel="Look at campaigns")(pareto)
app.command(rich_help_panel="Look at campaigns")(doctor)
app.command(rich_help_panel="Use the results")(plot)
app.command(rich_help_panel="Use the results")(export)
app.command(rich_help_panel="Use the results")(compare)
app.command(rich_help_panel="Use the results")(bench)
app.command(rich_help_panel="Use the results")(adapt)
for _kind in (tasks, rules, schedules, estimators, objectives):
    app.command(rich_help_panel="See what is registered")(_kind)


def _print_version(wanted: bool) -> None:
    if wanted:
        import evometa

        print(f"evometa {evometa.__version__}")
        raise typer.Exit


@app.callback()
def evometa_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Evolve learned optimizers for PyTorch, and use them like any `torch.optim` optimizer."""


def main() -> None:
    """Run the command line. What a user can mend is one line on the standard error and exit code 2."""
    try:
        app(prog_name="evometa")
    except EvometaError as error:
        print_error(str(error))
        sys.exit(_USER_ERROR)
