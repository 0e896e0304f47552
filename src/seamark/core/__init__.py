"""The decisions: no driver, framework, environment or clock."""
