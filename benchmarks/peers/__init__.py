"""The adapters, one for each library; each is imported in that library's own environment only."""
