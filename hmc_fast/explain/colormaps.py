"""The colours of maps, known without matplotlib."""

# the first is the default; lightness rises evenly in all but jet, the paper's, which draws edges
# where a map has none
COLORMAPS = ("inferno", "viridis", "magma", "plasma", "cividis", "jet")
