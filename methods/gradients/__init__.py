"""The gradient methods, one a file, each with its paper."""
