"""The soak: real campaigns that are killed again and again, and what becomes of them."""
