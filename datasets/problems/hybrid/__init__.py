"""Fields whose state is reset on the way: the problem, and a ball, a neuron and patients."""
