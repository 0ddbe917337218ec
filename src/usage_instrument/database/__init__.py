"""Everything that knows SQL. In: batches, settings and URLs. Out: tables, transactions, classified errors."""
