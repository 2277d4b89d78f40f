"""What people see of verdicts: alerts, their reasons, and their way out."""
