"""How data arrives: files fetched and checked, archives read, random numbers from a seed."""
