"""What this machine could do at best: its rates, measured on the spot, and the counted work of a step."""
