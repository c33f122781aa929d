"""Evolution (level 2): search space, variation, NSGA-II ranking, the Pareto front. DEAP is imported here."""
