"""How a solve goes from output to output: by fixed steps, or by steps that an error estimate chooses."""
