"""Backends: one kind of workers a file."""
