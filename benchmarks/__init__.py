"""evometa's inner training beside a naive loop, eager ``vmap``, JAX, and the machine's roofline."""
