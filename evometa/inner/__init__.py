"""Batched inner training (level 0): the only place that batches over candidates and tasks."""
