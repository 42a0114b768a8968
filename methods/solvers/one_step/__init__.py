"""A one-step solver: its options and their checks, and what follows from them."""
