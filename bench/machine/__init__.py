"""The circumstances of a measurement: hardware, versions, conditions, noise."""
