"""What gradient methods share: their edges, pull-backs, checkpoints, the costate's solve."""
