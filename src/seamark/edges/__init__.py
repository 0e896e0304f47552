"""Where the world meets the service: worker, command line and servers."""
