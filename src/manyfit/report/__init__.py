"""What people see. Reads records, never a trainer."""
