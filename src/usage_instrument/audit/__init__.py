"""The audit trail. In come accesses, out go rows in hash chains; `verify` finds any row that was changed or removed."""
