"""Regularisers: penalties on the dynamics that are made while they are solved, under every gradient method."""
