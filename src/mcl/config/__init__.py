"""Every setting once: types, defaults, ranges and help text. Flags, YAML, saved configs and docs come from here."""
