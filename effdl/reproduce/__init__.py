"""Published results, what we make beside them, and whether it holds."""
