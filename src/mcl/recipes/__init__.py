"""Shipped recipes: YAML files that state only what differs from the defaults."""
