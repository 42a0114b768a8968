"""Backward passes through implicit steps: columns, linear costates, and the partner of implicit stages."""
