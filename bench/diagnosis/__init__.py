"""How errors grow along a trajectory: logarithmic norms, bounds, predictions, a verdict."""
