"""Genes, search spaces, genomes, variation operators and their codec: plain data, no learning."""
