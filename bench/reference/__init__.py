"""The float64 gradient that every other one is held against, how far it is known, and the verdicts that rest on it."""
