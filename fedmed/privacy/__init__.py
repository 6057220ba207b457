"""Plans, mechanisms, accounting and statements of differential privacy."""
