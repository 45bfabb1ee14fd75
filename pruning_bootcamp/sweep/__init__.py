"""A search space -> trials, each an ordinary run -> the Pareto front of accuracy against what a network costs."""
