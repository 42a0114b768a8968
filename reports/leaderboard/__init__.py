"""A leaderboard of many result sets: what was submitted, how methods rank, one static page."""
