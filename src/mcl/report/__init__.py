"""The page: what runs and studies did, as one HTML file that needs nothing beside it."""
