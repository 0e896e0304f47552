"""What another backend or embedder is tested with: shipped, so that others can add one."""
