"""SNOpt: curvature from a tap, Kronecker factors, the preconditioner, a trained end time."""
