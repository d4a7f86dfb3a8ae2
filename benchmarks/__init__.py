"""Measured comparisons, one script per question; results in ``results/``, each saying what it ran on."""
