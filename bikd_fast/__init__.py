"""bikd_fast: teacher-student visual anomaly detection by bidirectional knowledge distillation."""
