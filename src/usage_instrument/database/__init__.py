"""Everything that knows SQL: tables, schema, dialects, the users table, engines and connections."""
