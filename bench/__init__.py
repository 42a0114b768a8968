"""odegrad compares the ways to train a Neural ODE."""
