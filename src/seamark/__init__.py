"""Keeps the embeddings of a database's rows complete, current and attributed, and searches them."""
