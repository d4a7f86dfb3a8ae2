"""The lectures' claims as experiments, one file per finding, and the table that traces them."""
