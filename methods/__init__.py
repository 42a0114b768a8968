"""Everything that is compared: solvers, gradient methods, optimizers, peers."""
