"""The command line ``evometa``: one file a verb, wired in :mod:`evometa.cli.app`."""
