"""The same inner training in JAX: evometa's rules written again, as fast as they could be made there."""
