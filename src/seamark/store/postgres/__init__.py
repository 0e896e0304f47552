"""The store on PostgreSQL with pgvector: the schema seamark in the user's database."""
