"""What every store promises, and one package a database."""
