"""The store on SQLite: the user's file, and a sidecar file beside it."""
