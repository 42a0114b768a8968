"""What figures are drawn on: one style, grids of panels, dot plots."""
