"""Measurements of what training costs: a step, the loader, the loop, and a model of many GPUs."""
