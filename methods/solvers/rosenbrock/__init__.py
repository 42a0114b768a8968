"""Linearly implicit (Rosenbrock) methods: no Newton iteration, the Jacobian is a part of the formula."""
