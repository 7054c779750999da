"""The page: captions, chat and search over photos, in the browser."""
