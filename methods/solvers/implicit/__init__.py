"""Implicit Runge-Kutta methods: their tableaus, Newton's iteration, the linear systems and the exact pull-back."""
